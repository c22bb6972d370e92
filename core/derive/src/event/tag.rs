//! Tags from fields.

use proc_macro2::{Span, TokenStream};
use quote::{format_ident, quote};
use syn::{
    Field, Fields, GenericArgument, Ident, Index, LitStr, Member, PathArguments, Result, Token, Type, ext::IdentExt,
    spanned::Spanned,
};

use super::FIELD;
use crate::attr::{self, at};

/// The longest key: one byte at least is the value's, and one the colon.
const KEY_BYTES_MAX: usize = 253;

/// A field that makes a tag, or one for each value in it.
pub(super) struct Tag<'a> {
    member: Member,
    key: String,
    ty: &'a Type,
}

impl Tag<'_> {
    /// The type whose `Display` is the tag's value.
    pub(super) fn displayed(&self) -> &Type {
        let mut ty = self.ty;
        while let Some(inner) = values(ty) {
            ty = inner;
        }
        ty
    }
}

pub(super) fn read(fields: &Fields) -> Result<Vec<Tag<'_>>> {
    let mut tags = Vec::new();
    for (index, field) in fields.iter().enumerate() {
        FIELD.read(&field.attrs, "event", |_, meta| {
            let literal: Option<LitStr> = match meta.input.peek(Token![=]) {
                true => Some(meta.value()?.parse()?),
                false => None,
            };
            let (key, span) = match (literal, &field.ident) {
                (Some(literal), _) => (literal.value(), literal.span()),
                (None, Some(ident)) => (ident.unraw().to_string(), ident.span()),
                (None, None) => return Err(meta.error("the field has no name: write `tag = \"key\"`")),
            };
            attr::check_name("the tag's key", &key, span, KEY_BYTES_MAX)?;
            tags.push(Tag { member: member(index, field), key, ty: &field.ty });
            Ok(())
        })?;
    }
    Ok(tags)
}

fn member(index: usize, field: &Field) -> Member {
    match &field.ident {
        Some(ident) => Member::Named(ident.clone()),
        None => Member::Unnamed(Index { index: index as u32, span: Span::call_site() }),
    }
}

/// The match arm that makes the tags of an event of this kind.
pub(super) fn expand(pattern: &TokenStream, tags: &[Tag<'_>], p: &TokenStream) -> TokenStream {
    if tags.is_empty() {
        return quote!(#pattern { .. } => ::core::result::Result::Ok(::std::vec::Vec::new()),);
    }
    let members = tags.iter().map(|tag| &tag.member);
    let bindings: Vec<_> = (0..tags.len()).map(|i| format_ident!("field_{i}")).collect();
    let pushes = tags.iter().zip(&bindings).map(|(tag, binding)| push(tag.ty, &tag.key, binding.clone(), p));
    quote! {
        #pattern { #(#members: #bindings,)* .. } => {
            let mut tags = ::std::vec::Vec::new();
            #(#pushes)*
            ::core::result::Result::Ok(tags)
        }
    }
}

fn push(ty: &Type, key: &str, mut value: Ident, p: &TokenStream) -> TokenStream {
    match values(ty) {
        Some(inner) => {
            let push = push(inner, key, format_ident!("value"), p);
            quote!(for value in ::core::iter::IntoIterator::into_iter(#value) { #push })
        }
        None => {
            value.set_span(at(ty.span()));
            quote!(tags.push(#p::Tag::of(#key, #value)?);)
        }
    }
}

/// The `T` of an `Option<T>` or a `Vec<T>`.
fn values(ty: &Type) -> Option<&Type> {
    let path = match ty {
        Type::Path(path) => path,
        // A type that a macro of the user's was given.
        Type::Group(group) => return values(&group.elem),
        _ => return None,
    };
    let last = path.path.segments.last().filter(|last| last.ident == "Option" || last.ident == "Vec")?;
    let PathArguments::AngleBracketed(arguments) = &last.arguments else { return None };
    match arguments.args.first() {
        Some(GenericArgument::Type(inner)) => Some(inner),
        _ => None,
    }
}
