-- Where the events of a page of the log by filter are: of events in categories `within`, of streams that begin with
-- `prefix`, that match any of the items; NULL, and no items, ask for nothing. From `low` to `high`, in the order asked for.
--
-- Where more may be behind the page, the last is no place but -1 times the first one that was not looked at. A replica that
-- does not have the position `needed` yet answers nothing.
CREATE FUNCTION filtered_places(
    within text[], prefix text, i_tags text[], i_categories text[], i_types text[],
    low bigint, high bigint, backwards boolean, events_max integer, needed bigint
) RETURNS bigint[] LANGUAGE plpgsql STABLE
SET search_path FROM CURRENT SET jit = off SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off SET enable_bitmapscan = off AS $$
DECLARE
    steps  constant integer := 20000;
    looked record;
    places bigint[] := '{}';
    place  bigint;
    stop   bigint;  -- what is to be looked at next time
BEGIN
    IF needed > 0 AND NOT EXISTS (SELECT FROM log l WHERE l.position = needed) THEN
        RAISE EXCEPTION 'the server is not at position % yet', needed USING ERRCODE = 'INDE5';
    END IF;
    IF within IS NULL AND cardinality(i_tags) = 0 THEN
        IF backwards AND high - low >= steps THEN
            stop := high - steps;
            low := stop + 1;
        ELSIF high - low >= steps THEN
            stop := low + steps;
            high := stop - 1;
        END IF;
        IF backwards THEN
            places := ARRAY(SELECT l.position FROM log l WHERE l.position BETWEEN low AND high
                AND starts_with(l.stream, prefix) ORDER BY l.position DESC LIMIT events_max + 1);
        ELSE
            places := ARRAY(SELECT l.position FROM log l WHERE l.position BETWEEN low AND high
                AND starts_with(l.stream, prefix) ORDER BY l.position LIMIT events_max + 1);
        END IF;
    ELSE
        FOR item IN 1..greatest(cardinality(i_tags), 1) LOOP
            looked := item_positions(item_kinds(i_categories[item], i_types[item], within),
                string_to_array(i_tags[item], E'\n'), low, high, backwards, events_max + 1, steps);
            places := places || looked.positions;
            stop := CASE WHEN backwards THEN greatest(stop, looked.stopped) ELSE least(stop, looked.stopped) END;
            -- Behind the last place of a full list there may be more. Without a prefix the page ends before that.
            IF prefix <> '' AND cardinality(looked.positions) > events_max THEN
                place := looked.positions[events_max + 1];
                stop := CASE WHEN backwards THEN greatest(stop, place) ELSE least(stop, place) END;
            END IF;
        END LOOP;
        IF backwards THEN
            places := ARRAY(SELECT DISTINCT p FROM unnest(places) p WHERE stop IS NULL OR p > stop ORDER BY p DESC);
        ELSE
            places := ARRAY(SELECT DISTINCT p FROM unnest(places) p WHERE stop IS NULL OR p < stop ORDER BY p);
        END IF;
        IF prefix <> '' THEN
            places := ARRAY(SELECT l.position FROM unnest(places) WITH ORDINALITY p (place, n)
                JOIN log l ON l.position = p.place WHERE starts_with(l.stream, prefix) ORDER BY p.n);
        END IF;
    END IF;
    IF cardinality(places) > events_max THEN
        stop := places[events_max + 1];
        places := places[:events_max];
    END IF;
    RETURN CASE WHEN stop IS NULL THEN places ELSE places || -stop END;
END
$$;
