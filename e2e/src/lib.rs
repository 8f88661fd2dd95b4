//! A local Kubernetes of three nodes, the demo, and what the end-to-end tests need to run on it.
//!
//! The way down: [`demo`] tells the story, step by step; an [`installation`] is the operator and the example on a [`cluster`], a
//! [`resource`] any one `MqttBroker`;
//! [`ledger`] and [`mosquitto`] are the clients that count; [`command`] and [`wait`] are what all of it stands on.
//!
//! Deliberately absent: anything of the broker or the operator. They are used as a person uses them, through their images, the
//! chart, `kubectl` and sockets, so that nothing here can be true only inside this workspace.

pub mod demo;

pub mod installation;
pub mod resource;

pub mod cluster;

pub mod audit;
pub mod ledger;
pub mod mosquitto;

pub mod mqtt;
pub mod service;
pub mod web_socket;

pub mod command;
pub mod progress;
pub mod wait;
