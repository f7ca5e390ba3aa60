//! weir: a sidecar proxy for service meshes. The data plane, as a library for the `weir` binary, benches and fuzzers.
//!
//! The walk a request takes: [`app`] starts [`worker`]s; [`listen`] accepts; [`http`] speaks the protocols ([`tcp`] carries
//! what is none), and [`http::request`] is the request path; [`policy`] tries as often and as long as it may; [`state`] is
//! what a request may reach; [`balance`] chooses an endpoint; [`upstream`] sends; [`tunnel`] carries what is no request any
//! more; [`opening`] reads a connection's first bytes, and [`detect`] judges them; [`h1`] is the codec under both ends. A stage may use the stages
//! after it, and [`error`], [`observe`], [`drain`], [`clock`].

pub mod admin;
pub mod app;
pub mod balance;
pub mod ca;
pub mod cli;
pub mod clock;
pub mod demo;
pub mod descriptors;
pub mod detect;
pub mod dev;
pub mod drain;
pub mod error;
pub mod h1;
pub mod http;
pub mod lifecycle;
pub mod listen;
mod math;
pub mod memory;
pub mod observe;
pub mod opening;
pub mod policy;
pub mod proxy_protocol;
pub mod respond;
pub mod settings;
pub mod slots;
pub mod socket;
pub mod state;
pub mod tcp;
pub mod tls;
pub mod tunnel;
pub mod upstream;
pub mod webhook;
pub mod worker;
