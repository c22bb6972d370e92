//! `#[derive(AggregateId)]`.

use proc_macro2::TokenStream;
use quote::quote;
use syn::{Data, DeriveInput, Error, Fields, Result};

pub(crate) fn expand(input: &DeriveInput) -> Result<TokenStream> {
    let ident = &input.ident;
    let inner = match &input.data {
        Data::Struct(data) => match &data.fields {
            Fields::Unnamed(fields) if fields.unnamed.len() == 1 && input.generics.params.is_empty() => {
                &fields.unnamed[0].ty
            }
            _ => return Err(not_newtype(input)),
        },
        _ => return Err(not_newtype(input)),
    };
    Ok(quote! {
        #[automatically_derived]
        impl ::core::fmt::Display for #ident {
            fn fmt(&self, f: &mut ::core::fmt::Formatter<'_>) -> ::core::fmt::Result {
                ::core::fmt::Display::fmt(&self.0, f)
            }
        }
        #[automatically_derived]
        impl ::core::str::FromStr for #ident {
            type Err = <#inner as ::core::str::FromStr>::Err;
            fn from_str(text: &str) -> ::core::result::Result<Self, Self::Err> {
                <#inner as ::core::str::FromStr>::from_str(text).map(Self)
            }
        }
        #[automatically_derived]
        impl ::core::convert::From<#inner> for #ident {
            fn from(inner: #inner) -> Self {
                Self(inner)
            }
        }
    })
}

fn not_newtype(input: &DeriveInput) -> Error {
    let ident = &input.ident;
    Error::new(ident.span(), format!("an aggregate's id wraps one value of a known type: `struct {ident}(String);`"))
}
