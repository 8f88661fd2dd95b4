//! Deliberate faults, by which tests prove that they would notice. They exist in debug builds alone.

/// Whether publishes are acknowledged before they are stored, against K1: when `MQTT_BROKER_BREAK_K1` is set.
pub fn breaks_k1() -> bool {
    is_set("MQTT_BROKER_BREAK_K1")
}

/// Whether the packet ids of QoS 2 are forgotten with their connection, against K2: when `MQTT_BROKER_BREAK_K2` is set.
pub fn breaks_k2() -> bool {
    is_set("MQTT_BROKER_BREAK_K2")
}

/// Whether a connection that lost its client id is said to have let go, and is let be, against K4: when
/// `MQTT_BROKER_BREAK_K4` is set.
pub fn breaks_k4() -> bool {
    is_set("MQTT_BROKER_BREAK_K4")
}

/// Whether retained messages are kept and read whatever older connections and other nodes have under way, against K8: when
/// `MQTT_BROKER_BREAK_K8` is set.
pub fn breaks_k8() -> bool {
    is_set("MQTT_BROKER_BREAK_K8")
}

fn is_set(name: &str) -> bool {
    cfg!(debug_assertions) && std::env::var_os(name).is_some()
}
