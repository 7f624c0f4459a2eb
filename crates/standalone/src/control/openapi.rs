//! The OpenAPI document. It is a file, so that it reads as what it is; the tests hold it to what the router answers.

/// The document, in OpenAPI 3.1.
pub const DOCUMENT: &str = include_str!("openapi.json");
