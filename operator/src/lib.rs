//! The operator: turns an `MqttBroker` resource into running brokers and keeps them so.
//!
//! A reconcile is five steps, and the rooms stand in that order. The API client appears only at the ends
//! (`observe` reads from caches that watches fill, `apply` and the patch in `status` write); what lies between is pure.
//!
//! Deliberately absent: the broker crate. The operator speaks to brokers through their admin API alone, so that
//! operator and broker can be upgraded apart.

pub mod api;
pub mod fingerprint;
pub mod names;
pub mod pod_monitor;
pub mod quantity;

pub mod apply;
pub mod build;
pub mod observe;
pub mod peer_pki;
pub mod plan;
pub mod status;
pub mod validate;

pub mod broker_client;
pub mod controller;
pub mod event;
pub mod lease;
pub mod reconcile;
pub mod telemetry;

#[cfg(test)]
mod fixtures;
#[cfg(test)]
mod simulation;
