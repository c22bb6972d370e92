//! Upcasters: how data of old schema versions becomes an event of today.

use proc_macro2::{Span, TokenStream};
use quote::{ToTokens, quote, quote_spanned};
use syn::{Error, Expr, Fields, Result, Type, meta::ParseNestedMeta, spanned::Spanned};

use super::Kind;
use crate::attr::{self, Keys, at};

const KEYS: Keys = Keys {
    attribute: "upcast(…)",
    place: "an event",
    known: &["from", "with", "typed"],
    repeated: &[],
    elsewhere: &[],
};

/// The steps of a stored type, after [`Upcasts::check`] in the order of their versions: 1, 2, 3 …
#[derive(Default)]
pub(super) struct Upcasts(Vec<Upcast>);

struct Upcast {
    from: u32,
    span: Span,
    step: Step,
}

enum Step {
    /// A function on the JSON value.
    Json(Expr),
    /// The type of the old shape.
    Typed(Type),
}

impl Upcasts {
    pub(super) fn read(&mut self, meta: &ParseNestedMeta<'_>) -> Result<()> {
        let (mut from, mut steps) = (None, Vec::new());
        KEYS.read_nested(meta, |key, meta| {
            match key {
                "from" => from = Some(attr::positive(meta)?),
                "with" => steps.push(Step::Json(meta.value()?.parse()?)),
                _ => steps.push(Step::Typed(meta.value()?.parse()?)),
            }
            Ok(())
        })?;
        let (Some((from, span)), [_]) = (from, &*steps) else {
            let write = "write `upcast(from = 1, with = function)` or `upcast(from = 1, typed = OldType)`";
            return Err(Error::new(meta.path.span(), write));
        };
        self.0.extend(steps.into_iter().map(|step| Upcast { from, span, step }));
        Ok(())
    }

    /// Where the first step stands.
    pub(super) fn span(&self) -> Option<Span> {
        self.0.first().map(|upcast| upcast.span)
    }

    /// Where the first step on the JSON value stands.
    pub(super) fn first_json(&self) -> Option<Span> {
        self.0.iter().find_map(|upcast| match &upcast.step {
            Step::Json(function) => Some(function.span()),
            Step::Typed(_) => None,
        })
    }

    /// The old types.
    pub(super) fn types(&self) -> impl Iterator<Item = &Type> {
        self.0.iter().filter_map(|upcast| match &upcast.step {
            Step::Typed(ty) => Some(ty),
            Step::Json(_) => None,
        })
    }

    /// Refuses all but one step for each version before today's, those on the JSON value first.
    pub(super) fn check(&mut self, today: u32, today_span: Span) -> Result<()> {
        if let Some(upcast) = self.0.iter().find(|upcast| upcast.from >= today) {
            let from = upcast.from;
            let write = format!(
                "version {from} is not an old one, today's is {today}: write `version = {}`",
                from.saturating_add(1)
            );
            return Err(Error::new(upcast.span, write));
        }
        self.0.sort_by_key(|upcast| upcast.from);
        if let Some(pair) = self.0.windows(2).find(|pair| pair[0].from == pair[1].from) {
            let twice = &pair[1];
            return Err(Error::new(twice.span, format!("version {} has an upcaster already", twice.from)));
        }
        let missing = (1..today).find(|from| self.0.get(*from as usize - 1).is_none_or(|upcast| upcast.from != *from));
        if let Some(from) = missing {
            let write = format!(
                "no upcaster from version {from}: add `upcast(from = {from}, with = function)` or \
                 `upcast(from = {from}, typed = OldType)`"
            );
            return Err(Error::new(today_span, write));
        }
        let mut after_typed = self.0.iter().skip_while(|upcast| matches!(upcast.step, Step::Json(_)));
        match after_typed.find_map(|upcast| if let Step::Json(with) = &upcast.step { Some(with) } else { None }) {
            Some(with) => Err(Error::new(
                with.span(),
                "a step with `with` can't follow a typed one, which leaves no JSON: write `typed = OldType`",
            )),
            None => Ok(()),
        }
    }
}

/// The expression that decodes `payload` as this kind of event.
pub(super) fn expand(kind: &Kind<'_>, p: &TokenStream) -> TokenStream {
    let (codec, today) = (kind.codec(p), kind.version);
    let (mut json, mut typed) = (Vec::new(), Vec::new());
    for upcast in &kind.upcasts.0 {
        match &upcast.step {
            Step::Json(function) => {
                let next = quote_spanned!(at(function.span())=> (#function)(value));
                json.push(quote!(|value: #p::Value| #p::Upcasted::upcasted(#next)));
            }
            Step::Typed(ty) => typed.push((upcast.from, ty)),
        }
    }
    let decode = match kind.index {
        Some(index) => quote!(data.variant(#index)),
        None => quote!(data.read()),
    };
    let decode = if typed.is_empty() {
        decode
    } else {
        let arms = (0..typed.len()).map(|i| {
            let ((from, ty), next) = (typed[i], &typed[i + 1..]);
            let chain = chain(kind, next.iter().map(|(_, ty)| *ty));
            let read = quote_spanned!(at(ty.span())=> let event: #ty = data.read()?;);
            quote! {
                #from => {
                    #read
                    #chain
                    ::core::result::Result::Ok(event)
                }
            }
        });
        quote!(match data.version() { #(#arms)* _ => #decode })
    };
    quote! {{
        let data = #p::Data::new(payload, #codec, #today, &[#(#json),*])?;
        #decode
    }}
}

/// Statements that take `event` from an old type to the event of today.
fn chain<'a>(kind: &Kind<'_>, next: impl Iterator<Item = &'a Type>) -> TokenStream {
    let into =
        |ty: &dyn ToTokens, span| quote_spanned!(at(span)=> let event: #ty = ::core::convert::Into::into(event););
    let steps = next.map(|ty| into(ty, ty.span()));
    let last = match (kind.index, kind.fields) {
        (Some(_), Fields::Unnamed(fields)) if fields.unnamed.len() == 1 => {
            let (payload, pattern) = (&fields.unnamed[0].ty, kind.pattern());
            let step = into(payload, payload.span());
            quote!(#step let event = #pattern(event);)
        }
        _ => into(&quote!(Self), Span::call_site()),
    };
    quote!(#(#steps)* #last)
}
