//! Serializes an enum's variant as its fields alone, since a record names the variant already.
//!
//! Works through the enum's own serde implementation, so that all its serde attributes count. Called by the code that
//! `#[derive(Event)]` writes.

use bytes::Bytes;
use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{self, DeserializeOwned, DeserializeSeed, EnumAccess, IntoDeserializer, VariantAccess, Visitor},
    ser::{self, Impossible},
};

use super::Codec;
use crate::{Cause, ContentType};

/// Encodes the fields of an enum's variant.
///
/// # Errors
/// What the codec says, or that the enum is not externally tagged.
pub fn encode<E: Serialize>(event: &E, codec: &dyn Codec) -> Result<Bytes, Cause> {
    struct Fields<'a, E>(&'a E);
    impl<E: Serialize> Serialize for Fields<'_, E> {
        fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            self.0.serialize(FieldsOnly(serializer))
        }
    }
    Ok(codec.encode(&Fields(event))?.into())
}

/// Decodes an enum's variant, named by its index among those that serde deserializes, from its fields.
///
/// # Errors
/// What the codec says of the data.
pub fn decode<E: DeserializeOwned>(index: u32, data: &[u8], codec: &dyn Codec) -> Result<E, Cause> {
    // As `Json` does it, but without a call through a pointer for each field, and all text looked at once for whether it is
    // any: replaying a log is decoding, for the most part.
    if codec.content_type() == ContentType::JSON
        && let Ok(text) = std::str::from_utf8(data)
    {
        let mut json = serde_json::Deserializer::from_str(text);
        let event = E::deserialize(Variant { index, fields: &mut json })?;
        json.end()?;
        return Ok(event);
    }
    let mut event = None;
    codec.decode(data, &mut |fields| {
        event = Some(E::deserialize(Variant { index, fields })?);
        Ok(())
    })?;
    event.ok_or_else(|| "the codec read nothing".into())
}

/// As [`decode`], from fields that an upcaster made.
///
/// # Errors
/// What serde says of the value.
pub fn decode_value<E: DeserializeOwned>(index: u32, fields: serde_json::Value) -> Result<E, Cause> {
    Ok(E::deserialize(Variant { index, fields })?)
}

struct FieldsOnly<S>(S);

fn not_tagged<E: ser::Error>() -> E {
    E::custom("an event is an enum in serde's default form, without `tag`, `content` or `untagged`")
}

macro_rules! refuse {
    ($($method:ident($($arg:ty),*) -> $ok:ty;)*) => {
        $(fn $method(self, $(_: $arg),*) -> Result<$ok, S::Error> { Err(not_tagged()) })*
    };
}

impl<S: Serializer> Serializer for FieldsOnly<S> {
    type Ok = S::Ok;
    type Error = S::Error;
    type SerializeSeq = Impossible<S::Ok, S::Error>;
    type SerializeTuple = Impossible<S::Ok, S::Error>;
    type SerializeTupleStruct = Impossible<S::Ok, S::Error>;
    type SerializeTupleVariant = Tuple<S::SerializeTuple>;
    type SerializeMap = Impossible<S::Ok, S::Error>;
    type SerializeStruct = Impossible<S::Ok, S::Error>;
    type SerializeStructVariant = Struct<S::SerializeStruct>;

    fn serialize_unit_variant(self, _: &'static str, _: u32, name: &'static str) -> Result<S::Ok, S::Error> {
        // An empty struct, so that fields can be added to it later.
        ser::SerializeStruct::end(self.0.serialize_struct(name, 0)?)
    }
    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        value: &T,
    ) -> Result<S::Ok, S::Error> {
        value.serialize(self.0)
    }
    fn serialize_tuple_variant(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        len: usize,
    ) -> Result<Self::SerializeTupleVariant, S::Error> {
        Ok(Tuple(self.0.serialize_tuple(len)?))
    }
    fn serialize_struct_variant(
        self,
        _: &'static str,
        _: u32,
        name: &'static str,
        len: usize,
    ) -> Result<Self::SerializeStructVariant, S::Error> {
        Ok(Struct(self.0.serialize_struct(name, len)?))
    }

    fn is_human_readable(&self) -> bool {
        self.0.is_human_readable()
    }

    refuse! {
        serialize_bool(bool) -> S::Ok;
        serialize_i8(i8) -> S::Ok;
        serialize_i16(i16) -> S::Ok;
        serialize_i32(i32) -> S::Ok;
        serialize_i64(i64) -> S::Ok;
        serialize_u8(u8) -> S::Ok;
        serialize_u16(u16) -> S::Ok;
        serialize_u32(u32) -> S::Ok;
        serialize_u64(u64) -> S::Ok;
        serialize_f32(f32) -> S::Ok;
        serialize_f64(f64) -> S::Ok;
        serialize_char(char) -> S::Ok;
        serialize_str(&str) -> S::Ok;
        serialize_bytes(&[u8]) -> S::Ok;
        serialize_none() -> S::Ok;
        serialize_unit() -> S::Ok;
        serialize_unit_struct(&'static str) -> S::Ok;
        serialize_seq(Option<usize>) -> Self::SerializeSeq;
        serialize_tuple(usize) -> Self::SerializeTuple;
        serialize_tuple_struct(&'static str, usize) -> Self::SerializeTupleStruct;
        serialize_map(Option<usize>) -> Self::SerializeMap;
        serialize_struct(&'static str, usize) -> Self::SerializeStruct;
    }
    fn serialize_some<T: Serialize + ?Sized>(self, _: &T) -> Result<S::Ok, S::Error> {
        Err(not_tagged())
    }
    fn serialize_newtype_struct<T: Serialize + ?Sized>(self, _: &'static str, _: &T) -> Result<S::Ok, S::Error> {
        Err(not_tagged())
    }
}

struct Tuple<S>(S);

impl<S: ser::SerializeTuple> ser::SerializeTupleVariant for Tuple<S> {
    type Ok = S::Ok;
    type Error = S::Error;
    fn serialize_field<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), S::Error> {
        self.0.serialize_element(value)
    }
    fn end(self) -> Result<S::Ok, S::Error> {
        self.0.end()
    }
}

struct Struct<S>(S);

impl<S: ser::SerializeStruct> ser::SerializeStructVariant for Struct<S> {
    type Ok = S::Ok;
    type Error = S::Error;
    fn serialize_field<T: Serialize + ?Sized>(&mut self, key: &'static str, value: &T) -> Result<(), S::Error> {
        self.0.serialize_field(key, value)
    }
    fn skip_field(&mut self, key: &'static str) -> Result<(), S::Error> {
        self.0.skip_field(key)
    }
    fn end(self) -> Result<S::Ok, S::Error> {
        self.0.end()
    }
}

/// A variant of known index, whose fields come from another deserializer.
struct Variant<D> {
    index: u32,
    fields: D,
}

impl<'de, D: Deserializer<'de>> Deserializer<'de> for Variant<D> {
    type Error = D::Error;

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        visitor.visit_enum(self)
    }
    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, D::Error> {
        Err(de::Error::custom("an event is an enum in serde's default form, without `tag`, `content` or `untagged`"))
    }
    fn is_human_readable(&self) -> bool {
        self.fields.is_human_readable()
    }
    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct
        newtype_struct seq tuple tuple_struct map struct identifier ignored_any
    }
}

impl<'de, D: Deserializer<'de>> EnumAccess<'de> for Variant<D> {
    type Error = D::Error;
    type Variant = Fields<D>;

    fn variant_seed<V: DeserializeSeed<'de>>(self, seed: V) -> Result<(V::Value, Fields<D>), D::Error> {
        Ok((seed.deserialize(self.index.into_deserializer())?, Fields(self.fields)))
    }
}

struct Fields<D>(D);

impl<'de, D: Deserializer<'de>> VariantAccess<'de> for Fields<D> {
    type Error = D::Error;

    fn unit_variant(self) -> Result<(), D::Error> {
        #[derive(Deserialize)]
        struct Empty {}
        Empty::deserialize(self.0).map(|Empty {}| ())
    }
    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value, D::Error> {
        seed.deserialize(self.0)
    }
    fn tuple_variant<V: Visitor<'de>>(self, len: usize, visitor: V) -> Result<V::Value, D::Error> {
        self.0.deserialize_tuple(len, visitor)
    }
    fn struct_variant<V: Visitor<'de>>(
        self,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        self.0.deserialize_struct("", fields, visitor)
    }
}

#[cfg(test)]
mod tests {
    use serde::{Deserialize, Serialize};

    use super::{decode, encode};
    use crate::codec::{Bincode, Codec, Json};

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    #[serde(rename_all = "snake_case")]
    enum Every {
        Unit,
        Newtype(Vec<u8>),
        Tuple(u8, String),
        Struct {
            #[serde(rename = "CENTS")]
            cents: u64,
            #[serde(default)]
            note: Option<String>,
        },
    }

    #[test]
    fn every_kind_of_variant_comes_back() {
        let events = [
            Every::Unit,
            Every::Newtype(vec![1, 2]),
            Every::Tuple(7, "ü".into()),
            Every::Struct { cents: u64::MAX, note: None },
        ];
        for codec in [&Json as &dyn Codec, &Bincode] {
            for (index, event) in events.iter().enumerate() {
                let data = encode(event, codec).unwrap();
                assert_eq!(&decode::<Every>(index as u32, &data, codec).unwrap(), event);
            }
        }
        assert_eq!(encode(&events[0], &Json).unwrap(), "{}");
        assert_eq!(encode(&events[3], &Json).unwrap(), r#"{"CENTS":18446744073709551615,"note":null}"#);
        assert_eq!(
            decode::<Every>(3, br#"{"CENTS":1,"new":[]}"#, &Json).unwrap(),
            Every::Struct { cents: 1, note: None }
        );
    }

    /// As serde_json has it, which looks at what is wanted alone.
    #[test]
    fn what_is_no_text_is_a_failure_where_it_is_wanted() {
        let ignored = decode::<Every>(3, b"{\"CENTS\":1,\"new\":\"\xff\"}", &Json);
        assert_eq!(ignored.unwrap(), Every::Struct { cents: 1, note: None });
        assert!(decode::<Every>(3, b"{\"CENTS\":1,\"note\":\"\xff\"}", &Json).is_err());
    }

    #[test]
    fn data_that_goes_on_is_refused() {
        assert!(decode::<Every>(0, b"{} {}", &Json).is_err());
        assert!(decode::<Every>(0, &[0], &Bincode).is_err());
    }

    #[test]
    fn tagged_enums_are_refused() {
        #[derive(Serialize, Deserialize)]
        #[serde(tag = "type")]
        enum Tagged {
            One { n: u8 },
        }
        let error = encode(&Tagged::One { n: 1 }, &Json).unwrap_err();
        assert!(error.to_string().contains("serde's default form"), "{error}");
    }
}
