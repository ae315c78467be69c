//! The program as its callers know it: real bundles, in a sandbox of each test's own.

#![allow(clippy::unwrap_used)] // A test fails by it, and says where.

mod bad;
mod hooks;
mod isolation;
mod lifecycle;
mod node;
