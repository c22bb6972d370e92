-- The kinds of an item: of any of these types (`categories` and `types` name them pair by pair, one a line), and in any
-- of the categories `within`. NULL is any type, any category, any kind.
CREATE FUNCTION item_kinds(categories text, types text, within text[]) RETURNS integer[] LANGUAGE sql STABLE AS $$
    SELECT CASE WHEN types IS NOT NULL OR within IS NOT NULL THEN ARRAY(
        SELECT k.kind FROM kinds k
        WHERE (item_kinds.types IS NULL OR (k.category, k.type) IN (
                SELECT * FROM unnest(string_to_array(item_kinds.categories, E'\n'),
                                     string_to_array(item_kinds.types, E'\n'))))
          AND (within IS NULL OR k.category = ANY (within)))
    END
$$;
