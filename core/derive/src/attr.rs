//! Reading attributes: ours, and what matters of serde's.

use proc_macro2::{Span, TokenStream};
use quote::{quote, quote_spanned};
use syn::{
    Attribute, Error, Expr, LitInt, LitStr, Meta, Result, Token, ext::IdentExt, meta::ParseNestedMeta,
    parse::ParseStream, punctuated::Punctuated, spanned::Spanned,
};

/// The keys that an attribute takes at a place, and where else others belong.
pub(crate) struct Keys {
    /// How it is written: `#[event(…)]`.
    pub(crate) attribute: &'static str,
    /// On what: "an enum".
    pub(crate) place: &'static str,
    pub(crate) known: &'static [&'static str],
    /// Those of `known` that may be given more than once.
    pub(crate) repeated: &'static [&'static str],
    pub(crate) elsewhere: &'static [(&'static str, &'static str)],
}

impl Keys {
    /// The key, unless it is unknown here or given twice.
    pub(crate) fn check(&self, seen: &mut Vec<String>, meta: &ParseNestedMeta<'_>) -> Result<String> {
        let key = meta.path.get_ident().map(|ident| ident.unraw().to_string()).unwrap_or_default();
        if !self.known.contains(&key.as_str()) {
            if let Some((_, place)) = self.elsewhere.iter().find(|(other, _)| *other == key) {
                return Err(meta.error(format!("`{key}` belongs {place}, not on {}", self.place)));
            }
            let known = self.known.join("`, `");
            return Err(
                meta.error(format!("unknown key `{key}`: `{}` on {} takes `{known}`", self.attribute, self.place))
            );
        }
        if seen.contains(&key) && !self.repeated.contains(&key.as_str()) {
            return Err(meta.error(format!("`{key}` is given twice")));
        }
        seen.push(key.clone());
        Ok(key)
    }

    /// Hands each key of all attributes of this name to `take`.
    pub(crate) fn read(
        &self,
        attrs: &[Attribute],
        name: &str,
        mut take: impl FnMut(&str, &ParseNestedMeta<'_>) -> Result<()>,
    ) -> Result<()> {
        let mut seen = Vec::new();
        for attr in attrs.iter().filter(|attr| attr.path().is_ident(name)) {
            attr.parse_nested_meta(|meta| take(&self.check(&mut seen, &meta)?, &meta))?;
        }
        Ok(())
    }

    /// As [`read`](Self::read), of the parentheses behind a key.
    pub(crate) fn read_nested(
        &self,
        meta: &ParseNestedMeta<'_>,
        mut take: impl FnMut(&str, &ParseNestedMeta<'_>) -> Result<()>,
    ) -> Result<()> {
        let mut seen = Vec::new();
        meta.parse_nested_meta(|meta| take(&self.check(&mut seen, &meta)?, &meta))
    }
}

/// A number of at least 1.
pub(crate) fn positive<N>(meta: &ParseNestedMeta<'_>) -> Result<(N, Span)>
where
    N: std::str::FromStr<Err: std::fmt::Display> + From<u8> + PartialOrd,
{
    let literal: LitInt = meta.value()?.parse()?;
    let number: N = literal.base10_parse()?;
    match number < N::from(1) {
        true => Err(Error::new(literal.span(), "must be at least 1")),
        false => Ok((number, literal.span())),
    }
}

/// Refuses what can't be a name in the log. `max` leaves room for what is put before or behind it.
pub(crate) fn check_name(what: &str, name: &str, span: Span, max: usize) -> Result<()> {
    if name.is_empty() {
        return Err(Error::new(span, format!("{what} is empty")));
    }
    if name.len() > max {
        let len = name.len();
        return Err(Error::new(span, format!("{what} has {len} bytes, at most {max} are allowed")));
    }
    match name.chars().find(|c| c.is_control()) {
        Some(c) => Err(Error::new(span, format!("{what} contains the control character {c:?}"))),
        None => Ok(()),
    }
}

/// The category that a key gives.
pub(crate) fn category(meta: &ParseNestedMeta<'_>) -> Result<LitStr> {
    let literal: LitStr = meta.value()?.parse()?;
    let name = literal.value();
    check_name("a category", &name, literal.span(), 255)?;
    match name.contains('-') {
        true => Err(Error::new(literal.span(), "a category contains no `-`: the first one in a stream's name ends it")),
        false => Ok(literal),
    }
}

/// Where the user wrote something, for code that belongs to the macro: errors point there, and names are the macro's
/// own even where the user's tokens come from a macro of theirs.
pub(crate) fn at(span: Span) -> Span {
    Span::call_site().located_at(span)
}

/// A codec, as `codec = …` names it.
#[derive(Clone)]
pub(crate) enum Codec {
    Json(Span),
    Bincode(Span),
    Other(Box<Expr>),
}

impl Codec {
    pub(crate) fn parse(input: ParseStream<'_>) -> Result<Self> {
        let codec: Expr = input.parse()?;
        Ok(match &codec {
            Expr::Path(name) if name.path.is_ident("json") => Self::Json(codec.span()),
            Expr::Path(name) if name.path.is_ident("bincode") => Self::Bincode(codec.span()),
            _ => Self::Other(codec.into()),
        })
    }

    pub(crate) fn span(&self) -> Span {
        match self {
            Self::Json(span) | Self::Bincode(span) => *span,
            Self::Other(codec) => codec.span(),
        }
    }

    /// A `&'static dyn Codec`.
    pub(crate) fn tokens(&self, private: &TokenStream) -> TokenStream {
        match self {
            Self::Json(_) => quote!(&#private::Json),
            Self::Bincode(_) => quote!(&#private::Bincode),
            Self::Other(codec) => quote_spanned!(at(codec.span())=> &#codec),
        }
    }
}

/// The keys of serde's attributes and where they stand.
pub(crate) fn serde_keys(attrs: &[Attribute]) -> impl Iterator<Item = (String, Span)> {
    attrs
        .iter()
        .filter(|attr| attr.path().is_ident("serde"))
        // What doesn't parse serde refuses itself.
        .filter_map(|attr| attr.parse_args_with(Punctuated::<Meta, Token![,]>::parse_terminated).ok())
        .flatten()
        .filter_map(|meta| Some((meta.path().get_ident()?.to_string(), meta.path().span())))
}

/// Refuses some of serde's keys.
pub(crate) fn refuse_serde(attrs: &[Attribute], keys: &[&str], why: &str) -> Result<()> {
    match serde_keys(attrs).find(|(key, _)| keys.contains(&key.as_str())) {
        Some((key, span)) => Err(Error::new(span, format!("`serde({key})`: {why}"))),
        None => Ok(()),
    }
}

/// What leaves a field out of the data for good.
pub(crate) const SKIPS: &[&str] = &["skip", "skip_serializing", "skip_deserializing"];
/// What bincode writes and can't read back.
pub(crate) const NOT_BINCODE: &[&str] = &["skip_serializing_if", "flatten"];
