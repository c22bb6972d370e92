#![no_main]

use indelible_rocksdb::fuzzing::DECODERS;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    if let Some((first, bytes)) = data.split_first() {
        let (_, decode) = DECODERS[usize::from(*first) % DECODERS.len()];
        decode(bytes);
    }
});
