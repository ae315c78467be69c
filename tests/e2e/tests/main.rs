//! All scenarios.

mod status;
