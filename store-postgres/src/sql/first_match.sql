-- The first event after `low`, up to `high`, that matches any of the items from `first` to `last`: for conditions.
CREATE FUNCTION first_match(
    i_tags text[], i_categories text[], i_types text[], first integer, last integer, low bigint, high bigint
) RETURNS bigint LANGUAGE plpgsql STABLE AS $$
DECLARE
    hit    bigint;
    looked record;
BEGIN
    FOR item IN first..last LOOP
        -- Behind what an earlier item has found, nothing is of interest.
        looked := item_positions(item_kinds(i_categories[item], i_types[item], NULL),
            string_to_array(i_tags[item], E'\n'), low + 1, coalesce(hit - 1, high), false, 1, 2147483647);
        hit := coalesce(looked.positions[1], hit);
    END LOOP;
    RETURN hit;
END
$$;
