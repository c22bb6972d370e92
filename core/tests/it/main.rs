//! Core's tests from outside: the conformance suite on the memory store, and the suite itself on broken ones.

#[cfg(feature = "conformance")]
mod broken;
#[cfg(feature = "conformance")]
mod conformance;
