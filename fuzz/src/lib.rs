//! Fuzz targets: `cargo +nightly fuzz run text`, and so on for each file of `fuzz_targets/`. The properties are tests of
//! the core as well, on a stable compiler and random input: `core/tests/it/decoders.rs`; those of the target `store`, of the
//! embedded store.

pub mod properties;
