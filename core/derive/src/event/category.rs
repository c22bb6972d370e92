//! Events of several categories: an enum whose variants wrap the events of one category each.

use proc_macro2::TokenStream;
use quote::quote;
use syn::{DeriveInput, Error, Fields, LitStr, Result, Type, Variant};

use super::{Attrs, FIELD};
use crate::attr::Codec;

pub(super) fn expand(
    input: &DeriveInput,
    variants: Vec<(&Variant, Attrs)>,
    codec: Option<&Codec>,
    p: &TokenStream,
) -> Result<TokenStream> {
    if let Some(codec) = codec {
        return Err(Error::new(codec.span(), ON_WRAPPED));
    }
    let (mut idents, mut types, mut categories) = (Vec::new(), Vec::new(), Vec::<LitStr>::new());
    for (variant, attrs) in &variants {
        let (ty, category) = wrapped(variant, attrs)?;
        if categories.contains(category) {
            let taken = format!("the category {:?} has a variant already", category.value());
            return Err(Error::new(category.span(), taken));
        }
        idents.push(&variant.ident);
        types.push(ty);
        categories.push(category.clone());
    }

    let ident = &input.ident;
    let mut generics = input.generics.clone();
    if generics.type_params().next().is_some() {
        let bounds = quote! {
            where
                Self: ::core::clone::Clone + ::core::marker::Send + ::core::marker::Sync + 'static,
                #(#types: #p::Event,)*
        };
        let bounds: syn::WhereClause = syn::parse2(bounds)?;
        generics.make_where_clause().predicates.extend(bounds.predicates);
    }
    let (impl_generics, type_generics, where_clause) = generics.split_for_impl();
    Ok(quote! {
        #[automatically_derived]
        impl #impl_generics #p::Event for #ident #type_generics #where_clause {
            fn shapes() -> ::std::vec::Vec<#p::EventShape> {
                let mut shapes = ::std::vec::Vec::new();
                #(shapes.extend(<#types as #p::Event>::shapes().into_iter().map(|shape| #p::EventShape {
                    category: ::core::option::Option::Some(const { #p::Category::from_static(#categories) }),
                    ..shape
                }));)*
                shapes
            }
            fn event_type(&self) -> #p::EventType {
                match self {
                    #(Self::#idents(event) => #p::Event::event_type(event),)*
                }
            }
            fn schema_version(&self) -> u32 {
                match self {
                    #(Self::#idents(event) => #p::Event::schema_version(event),)*
                }
            }
            fn codec(&self) -> ::core::option::Option<&'static dyn #p::Codec> {
                match self {
                    #(Self::#idents(event) => #p::Event::codec(event),)*
                }
            }
            fn tags(&self) -> ::core::result::Result<::std::vec::Vec<#p::Tag>, #p::InvalidInput> {
                match self {
                    #(Self::#idents(event) => #p::Event::tags(event),)*
                }
            }
            fn encode(&self, codec: &dyn #p::Codec) -> ::core::result::Result<#p::Bytes, #p::EncodeError> {
                match self {
                    #(Self::#idents(event) => #p::Event::encode(event, codec),)*
                }
            }
            fn decode(payload: &#p::Payload<'_>) -> ::core::result::Result<Self, #p::DecodeError> {
                match payload.stream.category_str() {
                    #(#categories => <#types as #p::Event>::decode(payload).map(Self::#idents),)*
                    _ => ::core::result::Result::Err(#p::unknown_type::<Self>(payload)),
                }
            }
        }
    })
}

const ON_WRAPPED: &str = "with `category` the events are those of the wrapped type: say it there";

fn wrapped<'a>(variant: &'a Variant, attrs: &'a Attrs) -> Result<(&'a Type, &'a LitStr)> {
    let write = format!("write `#[event(category = \"…\")] {}(EventsOfThatCategory)`", variant.ident);
    let Some(category) = &attrs.category else {
        let mixed = format!("every variant of such an enum wraps the events of a category: {write}");
        return Err(Error::new(variant.ident.span(), mixed));
    };
    let Fields::Unnamed(fields) = &variant.fields else { return Err(Error::new(variant.ident.span(), write)) };
    if fields.unnamed.len() != 1 {
        return Err(Error::new(variant.ident.span(), write));
    }
    let field = &fields.unnamed[0];
    FIELD.read(&field.attrs, "event", |_, meta| Err(meta.error(ON_WRAPPED)))?;
    let name = attrs.name.as_ref().map(LitStr::span);
    let version = attrs.version.map(|(_, span)| span);
    let own = name.or(version).or(attrs.upcasts.span()).or(attrs.codec.as_ref().map(Codec::span));
    match own {
        Some(span) => Err(Error::new(span, ON_WRAPPED)),
        None => Ok((&field.ty, category)),
    }
}
