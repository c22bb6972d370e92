//! The events that every subject is given, and the streams they go to.

use std::ops::Range;

use rand::{Rng as _, SeedableRng as _, rngs::StdRng};

/// The bytes of an event.
pub const BYTES: usize = 256;
/// The streams of a round, shared out among its callers.
pub const STREAMS: u32 = 10_000;

/// How many events are made before the clock runs: making them is no subject's work.
const POOL: usize = 16_384;

/// Where an event's own id stands.
const ID: Range<usize> = 13..49;
const HEX: &[u8; 16] = b"0123456789abcdef";

/// Events of [`BYTES`] of JSON: random ids and amounts, hardly to be compressed one by one.
pub struct Events(Vec<u8>);

impl Events {
    pub fn new(seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut pool = Vec::with_capacity(POOL * BYTES);
        for n in 1..=POOL {
            transfer(&mut rng, &mut pool, n * BYTES);
        }
        Self(pool)
    }

    /// An event by chance, copied, as an application's would be encoded, with an id of its own: no two of a log are alike.
    pub fn pick(&self, rng: &mut StdRng) -> Vec<u8> {
        let start = rng.random_range(0..POOL) * BYTES;
        let mut event = self.0[start..start + BYTES].to_vec();
        let mut id: u128 = rng.random();
        for digit in event[ID].iter_mut().filter(|byte| **byte != b'-') {
            *digit = HEX[(id & 15) as usize];
            id >>= 4;
        }
        event
    }
}

/// Writes one event, which ends where the buffer has `end` bytes.
fn transfer(rng: &mut StdRng, into: &mut Vec<u8>, end: usize) {
    let (id, from, to) = (uuid(rng), uuid(rng), uuid(rng));
    let (cents, balance) = (rng.random_range(1..1_000_000_000), rng.random_range(1..100_000_000_000_u64));
    let json = format!(
        r#"{{"transfer":"{id}","from":"{from}","to":"{to}","cents":{cents},"balance":{balance},"currency":"EUR","reference":""#
    );
    into.extend_from_slice(json.as_bytes());
    while into.len() < end - 2 {
        into.push(HEX[rng.random_range(0..16)]);
    }
    into.extend_from_slice(br#""}"#);
}

fn uuid(rng: &mut StdRng) -> String {
    let hex = format!("{:032x}", rng.random::<u128>());
    format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use rocksdb::{BlockBasedOptions, DB, DBCompressionType, Options, properties};

    use super::*;

    #[test]
    fn events_are_json_of_256_bytes_and_all_different() {
        let events = Events::new(1);
        let all: HashSet<&[u8]> = events.0.chunks(BYTES).collect();
        assert_eq!((all.len(), events.0.len()), (POOL, POOL * BYTES));
        for event in all {
            let json: serde_json::Value = serde_json::from_slice(event).expect("JSON");
            assert!(json["cents"].is_u64() && json["reference"].as_str().is_some_and(|text| text.len() > 30), "{json}");
        }
    }

    #[test]
    fn an_event_that_is_picked_again_has_another_id_and_nothing_else() {
        let events = Events::new(1);
        let picked = |pick: u64| events.pick(&mut StdRng::seed_from_u64(pick));
        let parse = |event: Vec<u8>| serde_json::from_slice::<serde_json::Value>(&event).expect("JSON");
        let ids: HashSet<String> = (0..1_000).map(|n| parse(picked(n))["transfer"].to_string()).collect();
        assert_eq!(ids.len(), 1_000);
        let (event, whole) = (picked(1), |event: &[u8]| [&event[..ID.start], &event[ID.end..]].concat());
        assert_eq!(events.0.chunks(BYTES).filter(|known| whole(known) == whole(&event)).count(), 1);
    }

    /// An event that a compressor could squeeze would flatter all that compress.
    #[test]
    fn zstd_leaves_at_least_150_bytes_of_an_event_alone() {
        let events = Events::new(2);
        let one_by_one = |value: fn(&[u8]) -> &[u8]| table_bytes(events.0.chunks(BYTES).take(1_000).map(value));
        let left = (one_by_one(|event| event) - one_by_one(|_| b"")) / 1_000;
        assert!((150..BYTES as u64).contains(&left), "{left} bytes left of {BYTES}");
    }

    /// The bytes of a table with each value in a block of its own, compressed by zstd at level 1.
    fn table_bytes<'a>(values: impl Iterator<Item = &'a [u8]>) -> u64 {
        let mut blocks = BlockBasedOptions::default();
        blocks.set_block_size(1);
        let mut options = Options::default();
        options.create_if_missing(true);
        options.set_block_based_table_factory(&blocks);
        options.set_compression_type(DBCompressionType::Zstd);
        options.set_compression_options(-14, 1, 0, 0);
        let dir = tempfile::tempdir().expect("a directory");
        let db = DB::open(&options, dir.path()).expect("a database");
        for (n, value) in values.enumerate() {
            db.put((n as u64).to_be_bytes(), value).expect("a put");
        }
        db.flush().expect("a flush");
        let properties = db.property_value(properties::AGGREGATED_TABLE_PROPERTIES).expect("properties");
        let text = properties.expect("properties");
        let of = |name: &str| -> u64 {
            let value = text.split(';').find_map(|entry| entry.trim().strip_prefix(name)?.strip_prefix('='));
            value.and_then(|value| value.trim().parse().ok()).unwrap_or_else(|| panic!("no {name} in {text}"))
        };
        assert_eq!(of("# data blocks"), of("# entries"));
        of("data block size")
    }
}
