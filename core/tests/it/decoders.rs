//! Whatever is decoded, on random input: the properties of the fuzz targets. `PROPTEST_CASES` says how many.

use proptest::{collection::vec, prelude::*};

#[path = "../../../fuzz/src/properties.rs"]
mod properties;

/// What JSON breaks at, alone or as an event's data.
const JSON: &[&str] = &[
    "{}",
    "null",
    " 1 ",
    "1e400000",
    "-0.0",
    "18446744073709551616",
    r#""\ud800""#,
    r#""\u0000""#,
    r#"{"a":1,"a":2}"#,
    r#"{"cents":-1}"#,
    r#"{"cents":1.0}"#,
    r#"{"cents":1,"reason":null}"#,
    "[1,]",
    "NaN",
    "\u{feff}{}",
    "tru",
    "{\"",
];

/// JSON, correct or nearly so.
fn json() -> impl Strategy<Value = Vec<u8>> {
    let deep = (1..100_000_usize).prop_map(|depth| "[".repeat(depth) + &"]".repeat(depth));
    let fields = (any::<u64>(), ".*", ".*").prop_map(|(cents, reason, other)| {
        serde_json::json!({ "cents": cents, "reason": reason, other: [1] }).to_string()
    });
    let texts = (".*", vec(any::<i64>(), 0..9), proptest::option::of(vec(any::<u8>(), 0..9)))
        .prop_map(|(t, n, b)| serde_json::json!({ "text": t, "numbers": n, "bytes": b }).to_string());
    let whole = prop_oneof![
        2 => proptest::sample::select(JSON).prop_map(str::to_owned),
        1 => deep,
        3 => fields,
        3 => texts,
    ];
    (whole, proptest::option::weighted(0.3, any::<(prop::sample::Index, u8)>())).prop_map(|(text, damage)| {
        let mut bytes = text.into_bytes();
        if let Some((at, byte)) = damage.filter(|_| !bytes.is_empty()) {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        bytes
    })
}

/// An event as CloudEvents writes it, with anything in its attributes.
fn cloud_event() -> impl Strategy<Value = Vec<u8>> {
    let attribute =
        || prop_oneof![Just("1".to_owned()), Just("account-1".to_owned()), Just("account.A".to_owned()), ".*"];
    let data = json().prop_map(|data| String::from_utf8_lossy(&data).into_owned());
    (vec(attribute(), 8), any::<[bool; 4]>(), data).prop_map(|(texts, flags, data)| {
        let id = "01a20669-1626-75a3-972c-a3ab3c7fc10f";
        let or = |flag: bool, right: &str, text: &String| if flag { right.to_owned() } else { text.clone() };
        format!(
            r#"{{"specversion":"1.0","id":"{id}","source":{:?},"type":{:?},"subject":{:?},"time":"2026-01-01T00:00:00Z","datacontenttype":{:?},"position":{:?},"streamversion":{:?},"schemaversion":1,"tags":{:?},"metadata":{:?},"data":{data}}}"#,
            texts[0],
            or(flags[0], "account.A", &texts[1]),
            or(flags[1], "account-1", &texts[2]),
            or(flags[2], "application/json", &texts[3]),
            or(flags[3], "1", &texts[4]),
            or(flags[3], "1", &texts[5]),
            or(flags[0], "[\"t\"]", &texts[6]),
            or(flags[1], "{\"k\":\"v\"}", &texts[7]),
        )
        .into_bytes()
    })
}

fn prefixed(data: impl Strategy<Value = Vec<u8>>) -> impl Strategy<Value = Vec<u8>> {
    (any::<[u8; 2]>(), data).prop_map(|(prefix, data)| [prefix.to_vec(), data].concat())
}

proptest! {
    #[test]
    fn text(bytes in prop_oneof![".{0,300}".prop_map(String::into_bytes), vec(any::<u8>(), 0..64), token()]) {
        properties::text(&bytes);
    }

    #[test]
    fn cloud_events(bytes in prop_oneof![vec(any::<u8>(), 0..200), json(), prefixed(json()), cloud_event()]) {
        properties::cloud_event(&bytes);
    }

    #[test]
    fn event_data(bytes in prop_oneof![prefixed(vec(any::<u8>(), 0..64)), prefixed(json())]) {
        properties::event_data(&bytes);
    }
}

/// Something like a token.
fn token() -> impl Strategy<Value = Vec<u8>> {
    ("[0-9a-f-]{30,36}", "[0-9]{0,22}", "[0-9a-f-]{30,36}", "[:-]")
        .prop_map(|(store, position, event, colon)| format!("{store}{colon}{position}{colon}{event}").into_bytes())
}
