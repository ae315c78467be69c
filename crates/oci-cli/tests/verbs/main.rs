//! The program as its callers know it: real bundles, in a sandbox of each test's own.

mod bad;
mod hooks;
mod isolation;
mod lifecycle;
mod node;
