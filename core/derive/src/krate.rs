//! Where the user's crate finds Indelible: the facade, else the core, under whatever name.

use proc_macro_crate::{FoundCrate, crate_name};
use proc_macro2::{Span, TokenStream};
use quote::{ToTokens, quote};
use syn::{Error, Ident, Path, Result};

/// The path of what generated code calls.
pub(crate) fn private(given: Option<&Path>) -> Result<TokenStream> {
    let krate = match given {
        Some(path) => path.to_token_stream(),
        None => found("indelible-core", |name| crate_name(name).ok())?,
    };
    Ok(quote!(#krate::__private))
}

/// The path of the projections: the facade has them as a module.
pub(crate) fn projections(given: Option<&Path>) -> Result<TokenStream> {
    match given {
        Some(path) => Ok(path.to_token_stream()),
        None if crate_name("indelible-projections").is_ok() => {
            found("indelible-projections", |name| crate_name(name).ok().filter(|_| name != "indelible"))
        }
        None => found("indelible", |name| crate_name(name).ok()).map(|facade| quote!(#facade::projections)),
    }
}

/// The facade, else this part of it.
fn found(part: &str, find: impl Fn(&str) -> Option<FoundCrate>) -> Result<TokenStream> {
    for name in ["indelible", part] {
        let ident = match find(name) {
            Some(FoundCrate::Itself) => name.replace('-', "_"),
            Some(FoundCrate::Name(renamed)) => renamed,
            None => continue,
        };
        let ident = Ident::new(&ident, Span::call_site());
        return Ok(quote!(::#ident));
    }
    Err(Error::new(
        Span::call_site(),
        "`indelible` is not among this crate's dependencies; say where it is: `crate = path`",
    ))
}

#[cfg(test)]
mod tests {
    use super::{FoundCrate, Result, TokenStream, found};

    fn path(dependencies: &[(&str, Option<&str>)]) -> Result<String> {
        let find = |name: &str| {
            let (_, renamed) = dependencies.iter().find(|(original, _)| *original == name)?;
            Some(renamed.map_or(FoundCrate::Itself, |renamed| FoundCrate::Name(renamed.into())))
        };
        found("indelible-core", find).map(|path: TokenStream| path.to_string().replace(' ', ""))
    }

    #[test]
    fn the_facade_comes_before_the_core() {
        let both = [("indelible-core", Some("indelible_core")), ("indelible", Some("indelible"))];
        assert_eq!(path(&both).unwrap(), "::indelible");
        assert_eq!(path(&both[..1]).unwrap(), "::indelible_core");
    }

    #[test]
    fn a_renamed_crate_is_found() {
        assert_eq!(path(&[("indelible", Some("events"))]).unwrap(), "::events");
        assert_eq!(path(&[("indelible-core", Some("es_core"))]).unwrap(), "::es_core");
    }

    #[test]
    fn the_core_finds_itself() {
        assert_eq!(path(&[("indelible-core", None)]).unwrap(), "::indelible_core");
    }

    #[test]
    fn none_is_an_error_that_says_what_to_write() {
        assert!(path(&[]).unwrap_err().to_string().contains("`crate = path`"));
    }
}
