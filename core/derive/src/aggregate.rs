//! `#[derive(Aggregate)]`.

use proc_macro2::{Span, TokenStream};
use quote::{ToTokens, quote};
use syn::{Attribute, Data, DeriveInput, Error, Fields, LitStr, Path, Result, Type, meta::ParseNestedMeta};

use crate::{
    attr::{self, Codec, Keys, NOT_BINCODE, SKIPS},
    krate,
};

const KEYS: Keys = Keys {
    attribute: "#[aggregate(…)]",
    place: "an aggregate",
    known: &["category", "id", "snapshot", "crate"],
    repeated: &[],
    elsewhere: &[
        ("every", "in `snapshot(…)`"),
        ("bytes", "in `snapshot(…)`"),
        ("version", "in `snapshot(…)`"),
        ("codec", "in `snapshot(…)`"),
    ],
};
const SNAPSHOT_KEYS: Keys = Keys {
    attribute: "snapshot(…)",
    place: "an aggregate",
    known: &["every", "bytes", "version", "codec"],
    repeated: &[],
    elsewhere: &[],
};

#[derive(Default)]
struct Attrs {
    category: Option<LitStr>,
    id: Option<Type>,
    snapshot: Snapshot,
    krate: Option<Path>,
}

#[derive(Default)]
struct Snapshot {
    every: Option<u64>,
    bytes: Option<u64>,
    version: Option<u32>,
    codec: Option<Codec>,
}

pub(crate) fn expand(input: &DeriveInput) -> Result<TokenStream> {
    let attrs = read(&input.attrs)?;
    let ident = &input.ident;
    let Some(category) = attrs.category else {
        let name = ident.to_string().to_lowercase();
        let write = format!("an aggregate has a category: `#[aggregate(category = \"{name}\")]`");
        return Err(Error::new(ident.span(), write));
    };
    for attributes in attributes(&input.data)? {
        check(attributes, attrs.snapshot.codec.as_ref())?;
    }

    let p = krate::private(attrs.krate.as_ref())?;
    let id = attrs.id.map_or_else(|| quote!(::std::string::String), ToTokens::into_token_stream);
    let policy = policy(&attrs.snapshot, &p);
    let state = state(input, attrs.snapshot.version.unwrap_or(1));
    let codec = attrs.snapshot.codec.as_ref().unwrap_or(&Codec::Bincode(Span::call_site())).tokens(&p);
    let mut generics = input.generics.clone();
    if generics.type_params().next().is_some() {
        let bound = quote!(Self: #p::Apply + ::core::default::Default + #p::Serialize + #p::DeserializeOwned);
        generics.make_where_clause().predicates.push(syn::parse2(bound)?);
    }
    let (impl_generics, type_generics, where_clause) = generics.split_for_impl();
    Ok(quote! {
        #[automatically_derived]
        impl #impl_generics #p::Aggregate for #ident #type_generics #where_clause {
            const CATEGORY: #p::Category = #p::Category::from_static(#category);
            type Id = #id;
            const SNAPSHOTS: #p::SnapshotPolicy = #policy;
            const STATE: &'static str = #state;
            fn snapshot_codec() -> &'static dyn #p::Codec {
                #codec
            }
        }
    })
}

fn read(attributes: &[Attribute]) -> Result<Attrs> {
    let mut attrs = Attrs::default();
    KEYS.read(attributes, "aggregate", |key, meta| {
        match key {
            "category" => attrs.category = Some(attr::category(meta)?),
            "id" => attrs.id = Some(meta.value()?.parse()?),
            "snapshot" => attrs.snapshot = snapshot(meta)?,
            _ => attrs.krate = Some(meta.value()?.parse()?),
        }
        Ok(())
    })?;
    Ok(attrs)
}

fn snapshot(meta: &ParseNestedMeta<'_>) -> Result<Snapshot> {
    let mut snapshot = Snapshot::default();
    SNAPSHOT_KEYS.read_nested(meta, |key, meta| {
        match key {
            "every" => snapshot.every = Some(attr::positive(meta)?.0),
            "bytes" => snapshot.bytes = Some(attr::positive(meta)?.0),
            "version" => snapshot.version = Some(attr::positive(meta)?.0),
            _ => snapshot.codec = Some(Codec::parse(meta.value()?)?),
        }
        Ok(())
    })?;
    Ok(snapshot)
}

/// The attributes of all fields and variants.
fn attributes(data: &Data) -> Result<Vec<&[Attribute]>> {
    let mut attributes: Vec<&[Attribute]> = Vec::new();
    match data {
        Data::Struct(data) => attributes.extend(data.fields.iter().map(|field| &*field.attrs)),
        Data::Enum(data) => {
            for variant in &data.variants {
                attributes.push(&variant.attrs);
                attributes.extend(variant.fields.iter().map(|field| &*field.attrs));
            }
        }
        Data::Union(data) => {
            return Err(Error::new(data.union_token.span, "a union is no aggregate: write a struct or an enum"));
        }
    }
    Ok(attributes)
}

/// Refuses what a snapshot would not bring back. Any aggregate may get one: by a repository's policy, or by hand.
fn check(attributes: &[Attribute], codec: Option<&Codec>) -> Result<()> {
    attr::refuse_serde(attributes, SKIPS, "it would not come back from a snapshot; remove the attribute")?;
    match codec {
        None | Some(Codec::Bincode(_)) => {
            let why = "bincode, the codec of snapshots, can't read it back; remove the attribute, \
                       or write `#[aggregate(snapshot(codec = json))]`";
            attr::refuse_serde(attributes, NOT_BINCODE, why)
        }
        Some(_) => Ok(()),
    }
}

fn policy(snapshot: &Snapshot, p: &TokenStream) -> TokenStream {
    let start = match snapshot.every {
        Some(events) => quote!(#p::SnapshotPolicy::every(#events)),
        None => quote!(#p::SnapshotPolicy::NEVER),
    };
    match snapshot.bytes {
        Some(bytes) => quote!(#start.or_bytes(#bytes)),
        None => start,
    }
}

/// The state's shape, as far as its own definition tells: names, types and serde's attributes.
fn state(input: &DeriveInput, version: u32) -> String {
    let mut shape = format!("{version}");
    let mut push = |tokens: TokenStream| shape.extend(tokens.to_string().chars().filter(|c| !c.is_whitespace()));
    push(serde(&input.attrs));
    match &input.data {
        Data::Struct(data) => push(shape_of(&data.fields)),
        Data::Enum(data) => {
            for variant in &data.variants {
                let (attrs, name, fields) = (serde(&variant.attrs), &variant.ident, shape_of(&variant.fields));
                push(quote!(#attrs #name #fields));
            }
        }
        Data::Union(_) => {}
    }
    shape
}

fn shape_of(fields: &Fields) -> TokenStream {
    let each = fields.iter().map(|field| {
        let (attrs, name, ty) = (serde(&field.attrs), &field.ident, &field.ty);
        quote!(#attrs #name : #ty,)
    });
    quote!({ #(#each)* })
}

fn serde(attrs: &[Attribute]) -> TokenStream {
    attrs.iter().filter(|attr| attr.path().is_ident("serde")).map(ToTokens::to_token_stream).collect()
}
