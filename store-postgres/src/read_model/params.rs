//! What a statement's `$1`, `$2` … stand for: tuples, or slices where the number is only known at run time.

use std::error::Error;

use bytes::{Bytes, BytesMut};
use indelible_core::Cause;
use tokio_postgres::types::{IsNull, ToSql, Type, to_sql_checked};

/// The parameters of a statement, each of a type that fits the statement's: a tuple of up to sixteen, `()` for none, or
/// `&[&(dyn ToSql + Sync)]`.
///
/// ```
/// # use indelible_postgres::Params;
/// fn takes(_: impl Params) {}
/// takes(("ada", 500_i64));
/// takes((vec!["ada", "bob"], Some(vec![1_i32, 2])));
/// takes(());
/// ```
pub trait Params: Send + Sync {
    /// Encodes them for a statement with parameters of these types.
    #[doc(hidden)]
    fn encode(&self, types: &[Type]) -> Result<Encoded, Cause>;
}

/// Parameters as they are sent.
#[doc(hidden)]
#[derive(Debug, Default)]
pub struct Encoded {
    pub(super) values: Vec<Value>,
    pub(super) bytes: usize,
}

/// One of them; `None` is NULL.
#[derive(Debug)]
pub(super) struct Value(Option<Bytes>);

impl ToSql for Value {
    fn to_sql(&self, _: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn Error + Sync + Send>> {
        let Some(bytes) = &self.0 else { return Ok(IsNull::Yes) };
        out.extend_from_slice(bytes);
        Ok(IsNull::No)
    }

    /// That the type fits was seen to when it was encoded.
    fn accepts(_: &Type) -> bool {
        true
    }

    to_sql_checked!();
}

fn encode(params: &[&(dyn ToSql + Sync)], types: &[Type]) -> Result<Encoded, Cause> {
    if params.len() != types.len() {
        return Err(format!("the statement has {} parameters, and not {}", types.len(), params.len()).into());
    }
    let mut buffer = BytesMut::new();
    let mut values = Vec::with_capacity(params.len());
    let mut bytes = 0;
    for (index, (param, name)) in params.iter().zip(types).enumerate() {
        let is_null = param.to_sql_checked(name, &mut buffer);
        let is_null = is_null.map_err(|error| format!("parameter ${} is no {name}: {error}", index + 1))?;
        bytes += buffer.len();
        let value = buffer.split().freeze();
        values.push(Value(matches!(is_null, IsNull::No).then_some(value)));
    }
    Ok(Encoded { values, bytes })
}

impl<P: Params> Params for &P {
    fn encode(&self, types: &[Type]) -> Result<Encoded, Cause> {
        P::encode(self, types)
    }
}

impl Params for &[&(dyn ToSql + Sync)] {
    fn encode(&self, types: &[Type]) -> Result<Encoded, Cause> {
        encode(self, types)
    }
}

macro_rules! tuples {
    ($($name:ident)*) => {
        impl<$($name: ToSql + Send + Sync),*> Params for ($($name,)*) {
            #[expect(non_snake_case, reason = "values are called as their types are")]
            fn encode(&self, types: &[Type]) -> Result<Encoded, Cause> {
                let ($($name,)*) = self;
                encode(&[$($name),*], types)
            }
        }
    };
}
impl Params for () {
    fn encode(&self, types: &[Type]) -> Result<Encoded, Cause> {
        encode(&[], types)
    }
}
tuples!(A);
tuples!(A B);
tuples!(A B C);
tuples!(A B C D);
tuples!(A B C D E);
tuples!(A B C D E F);
tuples!(A B C D E F G);
tuples!(A B C D E F G H);
tuples!(A B C D E F G H I);
tuples!(A B C D E F G H I J);
tuples!(A B C D E F G H I J K);
tuples!(A B C D E F G H I J K L);
tuples!(A B C D E F G H I J K L M);
tuples!(A B C D E F G H I J K L M N);
tuples!(A B C D E F G H I J K L M N O);
tuples!(A B C D E F G H I J K L M N O P);
