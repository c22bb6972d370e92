//! Whatever the store decodes, on random input: the fault is bytes that nobody wrote, of which must come a value or an error,
//! and no panic. The fuzz target `store` does the same. `INDELIBLE_DECODED` says how many inputs each decoder gets (2,000),
//! `INDELIBLE_SEED` from which numbers.
//!
//! Purely random bytes are decoded by few, so most inputs are made of what the formats are made of: small numbers, names
//! with their lengths, ids, zeros, texts of the store's own.

use indelible_core::conformance::fault::Line;
use indelible_rocksdb::fuzzing::DECODERS;
use rand::{Rng, SeedableRng, rngs::StdRng, seq::IndexedRandom};

use crate::campaign::{number, seed};

/// What text formats are made of.
const TEXTS: &[&str] = &[
    "indelible backup 1\n",
    "head ",
    "000102030405060708090a0b0c0d0e0f:300:101112131415161718191a1b1c1d1e1f",
    "\ntaken 5\n",
    "added 7\n",
    "file 7 00000abc log/a.sst\n",
    "file 7 00000abc ../a\n",
];

fn input(random: &mut StdRng) -> Vec<u8> {
    let mut bytes = Vec::new();
    if random.random_bool(0.2) {
        // A text in its order, but for what is left out.
        TEXTS.iter().filter(|_| random.random_bool(0.95)).for_each(|text| bytes.extend_from_slice(text.as_bytes()));
        return if random.random_bool(0.3) { TEXTS[2].into() } else { bytes };
    }
    match random.random_range(0..10) {
        0 => return block(random),
        1 => return damaged(record(random), random),
        2 => return damaged(snapshot(), random),
        _ => {}
    }
    for _ in 0..random.random_range(0..12) {
        match random.random_range(0..8) {
            0 => bytes.extend_from_slice(&random.random::<[u8; 16]>()),
            1 => bytes.extend_from_slice(&random.random::<u64>().to_le_bytes()),
            2 => bytes.extend_from_slice(&random.random_range(0..9_u64).to_le_bytes()),
            3 => bytes.extend_from_slice(&[random.random_range(0x80..=0xff), random.random_range(0..3)]),
            4 => {
                let name = ["a-1", "application/json", "x/y", "T", "é"].choose(random).expect("some");
                bytes.push(name.len() as u8);
                bytes.extend_from_slice(name.as_bytes());
            }
            5 => bytes.push(random.random()),
            6 => bytes.extend(std::iter::repeat_n(0, random.random_range(0..40))),
            _ => bytes.push(random.random_range(0..4)),
        }
    }
    bytes
}

/// With one byte another, or cut, or as it is.
fn damaged(mut bytes: Vec<u8>, random: &mut StdRng) -> Vec<u8> {
    let at = random.random_range(0..bytes.len());
    match random.random_range(0..3) {
        0 => bytes[at] = random.random(),
        1 => bytes.truncate(at),
        _ => {}
    }
    bytes
}

/// A block's last position, the length of its head's body, and that: where it starts, a checksum, a time, how many entries
/// there are, and of each a length and a checksum.
fn block(random: &mut StdRng) -> Vec<u8> {
    let (first, count) = (random.random_range(1..9_u8), random.random_range(1..5_u8));
    let lengths: Vec<u8> = (0..count).map(|_| random.random_range(0..9)).collect();
    let directory: Vec<u8> = lengths.iter().flat_map(|length| [*length, 0, 0, 0, 0]).collect();
    let body = [&[first][..], &[0; 12], &[count], &directory].concat();
    let entries = vec![0; lengths.iter().map(|length| usize::from(*length)).sum::<usize>()];
    [&[first + count - 1, body.len() as u8][..], &body, &entries].concat()
}

/// A record's flags, and what they say is there: ids, a schema version, names, tags, metadata, data.
fn record(random: &mut StdRng) -> Vec<u8> {
    let flags: u8 = random.random();
    let parts: [(u8, &[u8]); 10] = [
        (0, &[7; 16]),
        (4, &[7; 16]),
        (8, &[7; 16]),
        (16, &[0x80, 2]),
        (0, b"\x03a-1"),
        (0, b"\x01T"),
        (32, b"\x03x/y"),
        (64, b"\x02\x01g\x02\xc3\xa9"),
        (128, b"\x01\x01k\x01v"),
        (0, b"{}"),
    ];
    let there = parts.iter().filter(|(flag, _)| *flag == 0 || flags & flag != 0);
    [&[flags], there.flat_map(|(_, part)| part.iter().copied()).collect::<Vec<_>>().as_slice()].concat()
}

/// The fields of a snapshot: a stream, a version, two ids, a time, a content type, data.
fn snapshot() -> Vec<u8> {
    [&b"\x03a-1"[..], &[1, 0, 0, 0, 0, 0, 0, 0], &[7; 32], &[0; 8], b"\x03x/y{}"].concat()
}

#[test]
fn any_bytes_are_an_error_or_what_they_say() {
    let (wanted, seed) = (number("INDELIBLE_DECODED").unwrap_or(2_000), seed());
    let random = &mut StdRng::seed_from_u64(seed);
    let mut decoded = [0; DECODERS.len()];
    for _ in 0..wanted {
        let bytes = input(random);
        for ((_, decode), decoded) in DECODERS.iter().zip(&mut decoded) {
            *decoded += u64::from(decode(&bytes));
        }
    }
    let told: Vec<_> = DECODERS.iter().zip(decoded).map(|((name, _), decoded)| format!("{name} {decoded}")).collect();
    println!("seed {seed}: {wanted} inputs, of which were decoded: {}", told.join(", "));
    assert!(decoded.iter().all(|decoded| *decoded > 0), "a decoder was never tried to its end: {told:?}");
    let inputs = wanted * DECODERS.len() as u64;
    Line::clean("any bytes", inputs, decoded.iter().sum(), 0, &told.join(", ")).seed(seed).print();
}
