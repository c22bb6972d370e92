//! `#[derive(Projection)]`.

use proc_macro2::TokenStream;
use quote::{ToTokens, quote};
use syn::{DeriveInput, Error, Expr, Ident, LitStr, Path, Result, Token, Type, parenthesized, punctuated::Punctuated};

use crate::{
    attr::{self, Keys},
    krate,
};

const KEYS: Keys = Keys {
    attribute: "#[projection(…)]",
    place: "a projection",
    known: &["name", "version", "of", "events", "only", "partitions", "whole_log", "park", "retry", "crate"],
    repeated: &[],
    elsewhere: &[],
};

#[derive(Default)]
struct Attrs {
    name: Option<LitStr>,
    version: Option<u32>,
    of: Option<Type>,
    events: Option<Type>,
    only: Option<Punctuated<Ident, Token![,]>>,
    partitions: Option<u32>,
    whole_log: Option<Path>,
    park: Option<Option<u32>>,
    retry: Option<Expr>,
    krate: Option<Path>,
}

pub(crate) fn expand(input: &DeriveInput) -> Result<TokenStream> {
    let attrs = read(input)?;
    let ident = &input.ident;
    let refuse = |write: &str| Err(Error::new(ident.span(), write));
    let Some(name) = &attrs.name else {
        let name = ident.to_string().to_lowercase();
        return refuse(&format!("a projection has a name: `#[projection(name = \"{name}\", …)]`"));
    };
    attr::check_name("a projection's name", &name.value(), name.span(), 255)?;
    let p = krate::projections(attrs.krate.as_ref())?;
    let (event, wants) = match (&attrs.of, &attrs.events, &attrs.only) {
        (Some(aggregate), None, None) => (event_of(aggregate, &p), quote!(#p::Wants::of::<#aggregate>())),
        (Some(aggregate), None, Some(only)) => {
            let (event, only) = (event_of(aggregate, &p), only.iter());
            (event.clone(), quote!(#p::Wants::types::<#aggregate>([#(<#event>::#only),*])))
        }
        (None, Some(events), None) => (events.to_token_stream(), quote!(#p::Wants::all())),
        (None, Some(_), Some(_)) => return refuse("`only` goes with `of`; for others write `impl Projection` by hand"),
        _ => {
            return refuse(
                "whose events? `of = Account` for an aggregate's, or `events = BankEvent` for an enum over several",
            );
        }
    };
    let order = match (attrs.partitions, &attrs.whole_log) {
        (Some(_), Some(whole_log)) => {
            return Err(Error::new_spanned(whole_log, "the order of the whole log has one partition"));
        }
        (_, Some(_)) => quote!(#p::Order::WholeLog),
        (Some(partitions), None) => quote!(#p::Order::PerStream { partitions: #partitions }),
        (None, None) => quote!(#p::Order::PER_STREAM),
    };
    let version = attrs.version.unwrap_or(1);
    let park = attrs.park.map(|streams_max| {
        let park = match streams_max {
            Some(max) => quote!(#p::OnFailure::Park { streams_max: #max as usize }),
            None => quote!(#p::OnFailure::PARK),
        };
        quote!(const ON_FAILURE: #p::OnFailure = #park;)
    });
    let retry = attrs.retry.map(|retry| quote!(const RETRY: #p::Retry = #retry;));
    let (impl_generics, type_generics, where_clause) = input.generics.split_for_impl();
    Ok(quote! {
        #[automatically_derived]
        impl #impl_generics #p::Projection for #ident #type_generics #where_clause {
            const NAME: &'static str = #name;
            const VERSION: u32 = #version;
            const ORDER: #p::Order = #order;
            #park
            #retry
            type Event = #event;
            fn wants() -> #p::Wants<#event> {
                #wants
            }
        }
    })
}

fn event_of(aggregate: &Type, p: &TokenStream) -> TokenStream {
    quote!(<#aggregate as #p::__private::Apply>::Event)
}

fn read(input: &DeriveInput) -> Result<Attrs> {
    let mut attrs = Attrs::default();
    KEYS.read(&input.attrs, "projection", |key, meta| {
        match key {
            "name" => attrs.name = Some(meta.value()?.parse()?),
            "version" => attrs.version = Some(attr::positive(meta)?.0),
            "of" => attrs.of = Some(meta.value()?.parse()?),
            "events" => attrs.events = Some(meta.value()?.parse()?),
            "only" => {
                let types;
                parenthesized!(types in meta.input);
                attrs.only = Some(Punctuated::parse_terminated(&types)?);
            }
            "partitions" => {
                let (partitions, span) = attr::positive(meta)?;
                if partitions > 1_024 {
                    return Err(Error::new(span, "a projection has at most 1,024 partitions"));
                }
                attrs.partitions = Some(partitions);
            }
            "whole_log" => attrs.whole_log = Some(meta.path.clone()),
            "park" => {
                attrs.park = Some(match meta.input.peek(Token![=]) {
                    true => Some(attr::positive(meta)?.0),
                    false => None,
                });
            }
            "retry" => attrs.retry = Some(meta.value()?.parse()?),
            _ => attrs.krate = Some(meta.value()?.parse()?),
        }
        Ok(())
    })?;
    if let (Some(_), Some(whole_log)) = (attrs.park, &attrs.whole_log) {
        return Err(Error::new_spanned(
            whole_log,
            "`park` keeps streams back, which the order of the whole log forbids",
        ));
    }
    Ok(attrs)
}
