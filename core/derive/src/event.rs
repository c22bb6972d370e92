//! `#[derive(Event)]`: reads the type into [`Kind`]s, one for each stored type, and writes the implementation.

use proc_macro2::{Span, TokenStream};
use quote::quote;
use syn::{
    Attribute, Data, DataEnum, DeriveInput, Error, Fields, Generics, Ident, LitStr, Path, Result, ext::IdentExt,
};

use self::{tag::Tag, upcast::Upcasts};
use crate::{
    attr::{self, Codec, Keys, NOT_BINCODE, SKIPS},
    krate,
};

mod category;
mod tag;
mod upcast;

const fn keys(place: &'static str, known: &'static [&'static str]) -> Keys {
    const ELSEWHERE: &[(&str, &str)] = &[
        ("name", "on a variant"),
        ("version", "on a variant"),
        ("upcast", "on a variant"),
        ("category", "on a newtype variant"),
        ("codec", "on an enum or a variant"),
        ("tag", "on a field"),
        ("crate", "on the whole type"),
    ];
    Keys { attribute: "#[event(…)]", place, known, repeated: &["upcast"], elsewhere: ELSEWHERE }
}
const ENUM: Keys = keys("an enum", &["codec", "crate"]);
const STRUCT: Keys = keys("a struct", &["name", "version", "upcast", "codec", "crate"]);
const VARIANT: Keys = keys("a variant", &["name", "version", "upcast", "codec", "category"]);
const FIELD: Keys = keys("a field", &["tag"]);

/// What the attributes of an enum, a struct or a variant say.
#[derive(Default)]
struct Attrs {
    name: Option<LitStr>,
    version: Option<(u32, Span)>,
    upcasts: Upcasts,
    codec: Option<Codec>,
    category: Option<LitStr>,
    krate: Option<Path>,
}

impl Attrs {
    fn read(keys: &Keys, attributes: &[Attribute]) -> Result<Self> {
        let mut attrs = Self::default();
        keys.read(attributes, "event", |key, meta| {
            match key {
                "name" => attrs.name = Some(meta.value()?.parse()?),
                "version" => attrs.version = Some(attr::positive(meta)?),
                "upcast" => attrs.upcasts.read(meta)?,
                "codec" => attrs.codec = Some(Codec::parse(meta.value()?)?),
                "category" => attrs.category = Some(attr::category(meta)?),
                _ => attrs.krate = Some(meta.value()?.parse()?),
            }
            Ok(())
        })?;
        Ok(attrs)
    }
}

/// One stored type: a variant, or the whole struct.
struct Kind<'a> {
    ident: &'a Ident,
    fields: &'a Fields,
    /// serde's index of the variant; `None` for a struct.
    index: Option<u32>,
    name: String,
    name_span: Span,
    version: u32,
    upcasts: Upcasts,
    codec: Option<Codec>,
    tags: Vec<Tag<'a>>,
}

impl<'a> Kind<'a> {
    fn new(
        ident: &'a Ident,
        fields: &'a Fields,
        index: Option<u32>,
        attrs: Attrs,
        enum_codec: Option<&Codec>,
    ) -> Result<Self> {
        let (name, name_span) = match &attrs.name {
            Some(literal) => (literal.value(), literal.span()),
            None => (ident.unraw().to_string(), ident.span()),
        };
        attr::check_name("the stored name", &name, name_span, 255)?;
        let (version, version_span) = attrs.version.unwrap_or((1, ident.span()));
        let mut upcasts = attrs.upcasts;
        upcasts.check(version, version_span)?;
        let mut codec = attrs.codec.or_else(|| enum_codec.cloned());
        if let Some(step) = upcasts.first_json() {
            match &codec {
                // A store's default must not make the data unreadable for the upcasters of later versions.
                None => codec = Some(Codec::Json(step)),
                Some(Codec::Json(_)) => {}
                Some(_) => {
                    let write = "an upcaster with `with` works on JSON: write `codec = json`, or `typed = OldType`";
                    return Err(Error::new(step, write));
                }
            }
        }
        for field in fields {
            attr::refuse_serde(&field.attrs, SKIPS, "what is not recorded has not happened; remove it")?;
            if let Some(Codec::Bincode(_)) = codec {
                let why = "bincode can't read it back; remove it, or write `codec = json`";
                attr::refuse_serde(&field.attrs, NOT_BINCODE, why)?;
            }
        }
        Ok(Self { ident, fields, index, name, name_span, version, upcasts, codec, tags: tag::read(fields)? })
    }

    fn pattern(&self) -> TokenStream {
        let ident = self.ident;
        if self.index.is_some() { quote!(Self::#ident) } else { quote!(Self) }
    }

    /// An `Option<&'static dyn Codec>`.
    fn codec(&self, p: &TokenStream) -> TokenStream {
        match &self.codec {
            Some(codec) => {
                let codec = codec.tokens(p);
                quote!(::core::option::Option::Some(#codec))
            }
            None => quote!(::core::option::Option::None),
        }
    }

    /// The name of its constant, unless the variant itself is called so.
    fn constant(&self) -> Option<Ident> {
        let name = screaming(&self.ident.unraw().to_string());
        (*self.ident != name || self.index.is_none()).then(|| Ident::new(&name, self.ident.span()))
    }
}

pub(crate) fn expand(input: &DeriveInput) -> Result<TokenStream> {
    if let Some(lifetime) = input.generics.lifetimes().next() {
        return Err(Error::new(
            lifetime.lifetime.span(),
            "an event owns its data: write `String` instead of `&str`, and so on",
        ));
    }
    match &input.data {
        Data::Enum(data) => of_enum(input, data),
        Data::Struct(data) => {
            let attrs = Attrs::read(&STRUCT, &input.attrs)?;
            let p = krate::private(attrs.krate.as_ref())?;
            implement(input, &[Kind::new(&input.ident, &data.fields, None, attrs, None)?], &p)
        }
        Data::Union(data) => Err(Error::new(data.union_token.span, "a union is no event: write an enum or a struct")),
    }
}

fn of_enum(input: &DeriveInput, data: &DataEnum) -> Result<TokenStream> {
    let attrs = Attrs::read(&ENUM, &input.attrs)?;
    let mut variants = Vec::with_capacity(data.variants.len());
    for variant in &data.variants {
        variants.push((variant, Attrs::read(&VARIANT, &variant.attrs)?));
    }
    let p = krate::private(attrs.krate.as_ref())?;
    if variants.is_empty() {
        return Err(Error::new(input.ident.span(), "no event can happen: add a variant"));
    }
    if variants.iter().any(|(_, attrs)| attrs.category.is_some()) {
        return category::expand(input, variants, attrs.codec.as_ref(), &p);
    }
    let tagged = "the variant's name is stored beside the data; remove it, so that the enum has serde's default form";
    attr::refuse_serde(&input.attrs, &["tag", "content", "untagged"], tagged)?;
    let through = "the data is the variant's own fields; remove it";
    attr::refuse_serde(&input.attrs, &["from", "try_from", "into", "remote"], through)?;
    let mut kinds = Vec::with_capacity(variants.len());
    for (index, (variant, of_variant)) in variants.into_iter().enumerate() {
        attr::refuse_serde(&variant.attrs, SKIPS, "every variant is recorded; remove it")?;
        attr::refuse_serde(&variant.attrs, &["untagged", "other"], "the stored name tells the variant; remove it")?;
        let index = u32::try_from(index).expect("an enum's variants are counted in 32 bits");
        kinds.push(Kind::new(&variant.ident, &variant.fields, Some(index), of_variant, attrs.codec.as_ref())?);
    }
    refuse_twins(&kinds)?;
    implement(input, &kinds, &p)
}

fn refuse_twins(kinds: &[Kind<'_>]) -> Result<()> {
    for (i, kind) in kinds.iter().enumerate() {
        if let Some(twin) = kinds[..i].iter().find(|other| other.name == kind.name) {
            let taken =
                format!("the stored name {:?} is that of `{}` already: give another `name`", kind.name, twin.ident);
            return Err(Error::new(kind.name_span, taken));
        }
        let constant = kind.constant();
        if let Some(twin) = kinds[..i].iter().find(|other| constant.is_some() && other.constant() == constant) {
            let taken = format!("its constant would have the name of that of `{}`: rename one of them", twin.ident);
            return Err(Error::new(kind.ident.span(), taken));
        }
    }
    Ok(())
}

fn implement(input: &DeriveInput, kinds: &[Kind<'_>], p: &TokenStream) -> Result<TokenStream> {
    let (ident, vis) = (&input.ident, &input.vis);
    let generics = bounds(&input.generics, kinds, p)?;
    let (impl_generics, type_generics, where_clause) = generics.split_for_impl();

    let names: Vec<_> = kinds.iter().map(|kind| &kind.name).collect();
    let versions: Vec<_> = kinds.iter().map(|kind| kind.version).collect();
    let codecs: Vec<_> = kinds.iter().map(|kind| kind.codec(p)).collect();
    let patterns: Vec<_> = kinds.iter().map(Kind::pattern).collect();
    let tags = kinds.iter().map(|kind| tag::expand(&kind.pattern(), &kind.tags, p));
    let decodes = kinds.iter().map(|kind| upcast::expand(kind, p));
    let encode = if kinds[0].index.is_some() { quote!(encode_variant) } else { quote!(encode_struct) };
    let constants = kinds.iter().filter_map(|kind| {
        let (constant, name) = (kind.constant()?, &kind.name);
        let doc = format!("The stored type `{name}`.");
        Some(quote! {
            #[doc = #doc]
            #[allow(dead_code)]
            #vis const #constant: #p::EventName<Self> = #p::EventName::from_static(#name);
        })
    });
    Ok(quote! {
        #[automatically_derived]
        impl #impl_generics #ident #type_generics #where_clause {
            #(#constants)*
        }
        #[automatically_derived]
        impl #impl_generics #p::Event for #ident #type_generics #where_clause {
            fn shapes() -> ::std::vec::Vec<#p::EventShape> {
                ::std::vec![#(#p::EventShape {
                    name: #names,
                    category: ::core::option::Option::None,
                    schema_version: #versions,
                    codec: #codecs,
                }),*]
            }
            fn event_type(&self) -> #p::EventType {
                match self {
                    #(#patterns { .. } => const { #p::EventType::from_static(#names) },)*
                }
            }
            fn schema_version(&self) -> u32 {
                match self {
                    #(#patterns { .. } => #versions,)*
                }
            }
            fn codec(&self) -> ::core::option::Option<&'static dyn #p::Codec> {
                match self {
                    #(#patterns { .. } => #codecs,)*
                }
            }
            fn tags(&self) -> ::core::result::Result<::std::vec::Vec<#p::Tag>, #p::InvalidInput> {
                match self {
                    #(#tags)*
                }
            }
            fn encode(&self, codec: &dyn #p::Codec) -> ::core::result::Result<#p::Bytes, #p::EncodeError> {
                #p::#encode(self, codec)
            }
            fn decode(payload: &#p::Payload<'_>) -> ::core::result::Result<Self, #p::DecodeError> {
                match payload.event_type.as_str() {
                    #(#names => #decodes,)*
                    _ => ::core::result::Result::Err(#p::unknown_type::<Self>(payload)),
                }
            }
        }
    })
}

/// A generic event is one where its parameters allow.
fn bounds(generics: &Generics, kinds: &[Kind<'_>], p: &TokenStream) -> Result<Generics> {
    let mut generics = generics.clone();
    if generics.type_params().next().is_some() {
        let displayed = kinds.iter().flat_map(|kind| &kind.tags).map(Tag::displayed);
        let old = kinds.iter().flat_map(|kind| kind.upcasts.types());
        let bounds = quote! {
            where
                Self: ::core::clone::Clone + ::core::marker::Send + ::core::marker::Sync + 'static
                    + #p::Serialize + #p::DeserializeOwned,
                #(#displayed: ::core::fmt::Display,)*
                #(#old: #p::DeserializeOwned,)*
        };
        let bounds: syn::WhereClause = syn::parse2(bounds)?;
        generics.make_where_clause().predicates.extend(bounds.predicates);
    }
    Ok(generics)
}

/// `HTTPRequestFailed2` as `HTTP_REQUEST_FAILED2`.
fn screaming(name: &str) -> String {
    let chars: Vec<char> = name.chars().collect();
    let mut screaming = String::new();
    for (i, c) in chars.iter().enumerate() {
        let after_word = i > 0 && chars[i - 1] != '_' && !chars[i - 1].is_uppercase();
        let before_word = i > 0 && chars[i - 1].is_uppercase() && chars.get(i + 1).is_some_and(|c| c.is_lowercase());
        if c.is_uppercase() && (after_word || before_word) {
            screaming.push('_');
        }
        screaming.extend(c.to_uppercase());
    }
    screaming
}

#[cfg(test)]
mod tests {
    #[test]
    fn constants_are_named_by_words() {
        for (name, constant) in [
            ("Withdrawn", "WITHDRAWN"),
            ("SeatTaken", "SEAT_TAKEN"),
            ("HTTPRequestFailed2", "HTTP_REQUEST_FAILED2"),
            ("V2Started", "V2_STARTED"),
            ("Already_Split", "ALREADY_SPLIT"),
            ("Überwiesen", "ÜBERWIESEN"),
        ] {
            assert_eq!(super::screaming(name), constant);
        }
    }
}
