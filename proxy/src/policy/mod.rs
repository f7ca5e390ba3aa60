//! Attempts: how often, how long, and at whose cost a request is tried.
//!
//! [`weir_config::policy`] judges, purely; here it is acted upon. [`attempts`] makes one attempt after the other,
//! [`deadline`] reads what the caller says about its patience and passes on what is left of it. The budget that keeps
//! retries from making a bad moment worse belongs to the cluster, in [`crate::balance::budget`]. Nothing here knows which protocol is spoken.

pub mod attempts;
pub mod deadline;
