-- Where the events of one query item are: of any of these kinds (NULL: of any kind) and with all of these tags, from
-- `low` to `high`, the first `wanted` of them in the order asked for. After `steps` it gives up, and `stopped` is the
-- first position that it has not looked at.
--
-- Each tag is a sorted list of positions, the kinds together another. They are walked side by side: each says where it
-- goes on at or behind the place that the others have come to, until all are at the same. So the cost is that of the
-- shortest list, whichever that is, and no statistics are asked. `filtered_places` and `append` call it, and set how plans
-- are made.
CREATE FUNCTION item_positions(
    kinds integer[], tags text[], low bigint, high bigint, backwards boolean, wanted integer, steps integer,
    OUT positions bigint[], OUT stopped bigint
) LANGUAGE plpgsql STABLE AS $$
DECLARE
    lists    integer := coalesce(cardinality(tags), 0) + (kinds IS NOT NULL)::integer;
    place    bigint := CASE WHEN backwards THEN high ELSE low END;
    hit      bigint;
    agreeing integer := 0;
    list     integer := 0;
BEGIN
    positions := '{}';
    IF cardinality(kinds) = 0 OR low > high THEN
        RETURN;
    END IF;
    IF lists = 1 AND kinds IS NULL THEN
        IF backwards THEN
            positions := ARRAY(SELECT t.position FROM tags t WHERE t.tag = item_positions.tags[1]
                AND t.position BETWEEN low AND high ORDER BY t.position DESC LIMIT wanted);
        ELSE
            positions := ARRAY(SELECT t.position FROM tags t WHERE t.tag = item_positions.tags[1]
                AND t.position BETWEEN low AND high ORDER BY t.position LIMIT wanted);
        END IF;
        RETURN;
    ELSIF lists = 1 THEN
        IF backwards THEN
            positions := ARRAY(SELECT l.position FROM unnest(kinds) k, LATERAL (
                SELECT log.position FROM log WHERE log.kind = k AND log.position BETWEEN low AND high
                ORDER BY log.position DESC LIMIT wanted) l ORDER BY l.position DESC LIMIT wanted);
        ELSE
            positions := ARRAY(SELECT l.position FROM unnest(kinds) k, LATERAL (
                SELECT log.position FROM log WHERE log.kind = k AND log.position BETWEEN low AND high
                ORDER BY log.position LIMIT wanted) l ORDER BY l.position LIMIT wanted);
        END IF;
        RETURN;
    END IF;
    WHILE place BETWEEN low AND high LOOP
        IF steps <= 0 THEN
            stopped := place;
            RETURN;
        END IF;
        steps := steps - 1;
        list := list % lists + 1;
        IF list > coalesce(cardinality(tags), 0) THEN
            IF backwards THEN
                SELECT max(l.position) INTO hit FROM unnest(kinds) k, LATERAL (
                    SELECT log.position FROM log WHERE log.kind = k AND log.position BETWEEN low AND place
                    ORDER BY log.position DESC LIMIT 1) l;
            ELSE
                SELECT min(l.position) INTO hit FROM unnest(kinds) k, LATERAL (
                    SELECT log.position FROM log WHERE log.kind = k AND log.position BETWEEN place AND high
                    ORDER BY log.position LIMIT 1) l;
            END IF;
        ELSIF backwards THEN
            SELECT t.position INTO hit FROM tags t WHERE t.tag = item_positions.tags[list]
                AND t.position BETWEEN low AND place ORDER BY t.position DESC LIMIT 1;
        ELSE
            SELECT t.position INTO hit FROM tags t WHERE t.tag = item_positions.tags[list]
                AND t.position BETWEEN place AND high ORDER BY t.position LIMIT 1;
        END IF;
        IF hit IS NULL THEN
            RETURN;
        ELSIF hit = place AND agreeing > 0 THEN
            agreeing := agreeing + 1;
        ELSE
            agreeing := 1;
            place := hit;
        END IF;
        IF agreeing = lists THEN
            positions := positions || place;
            IF cardinality(positions) = wanted THEN
                RETURN;
            END IF;
            place := place + CASE WHEN backwards THEN -1 ELSE 1 END;
            agreeing := 0;
        END IF;
    END LOOP;
END
$$;
