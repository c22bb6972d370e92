//! Derives.
use proc_macro::TokenStream;
/// x
#[proc_macro_derive(Event, attributes(event))]
pub fn event(_: TokenStream) -> TokenStream {
    TokenStream::new()
}
/// x
#[proc_macro_derive(Aggregate, attributes(aggregate))]
pub fn aggregate(_: TokenStream) -> TokenStream {
    TokenStream::new()
}
/// x
#[proc_macro_derive(AggregateId)]
pub fn aggregate_id(_: TokenStream) -> TokenStream {
    TokenStream::new()
}
