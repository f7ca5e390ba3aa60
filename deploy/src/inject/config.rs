//! The configuration of a sidecar for which nobody wrote one.

use std::fmt::Write;

use super::settings::Settings;

/// Where weir finds its configuration.
pub(super) const DIR: &str = "/etc/weir";
/// Where weir finds its certificate.
pub(super) const IDENTITY: &str = "/etc/weir-identity";
/// Where weir finds the socket of the Workload API.
pub(super) const WORKLOAD_API: &str = "/spiffe-workload-api";

/// The configuration: everything passes through and is counted, in the mesh if the pod has an identity.
pub fn default(settings: &Settings) -> String {
    let mut text = String::from(
        "# Made by `weir inject`. For one of your own: the annotation weir.proxy/config, or a ConfigMap and weir.proxy/config-map.\n\
         admin: { listen: 127.0.0.1:15000 }\n\
         probes: { listen: [\"0.0.0.0:15020\", \"[::]:15020\"] }\n",
    );
    if settings.identity_secret.is_some() {
        let _ = writeln!(
            text,
            "identity: {{ files: {{ cert: {IDENTITY}/tls.crt, key: {IDENTITY}/tls.key, trust: {IDENTITY}/ca.crt }} }}"
        );
    } else if settings.workload_api.is_some() {
        let _ = writeln!(text, "identity: {{ workload_api: \"unix:{WORKLOAD_API}/spire-agent.sock\" }}");
    }
    let (inbound, outbound) = (settings.rules.inbound.unwrap_or(15006), settings.rules.outbound.unwrap_or(15001));
    text.push_str("listeners:\n");
    for (name, any, port) in [("inbound", ["0.0.0.0", "[::]"], inbound), ("outbound", ["127.0.0.1", "[::1]"], outbound)] {
        let [v4, v6] = any;
        let _ = writeln!(
            text,
            "  - name: {name}\n    listen: [\"{v4}:{port}\", \"{v6}:{port}\"]\n    direction: {name}\n    original_destination: true"
        );
        if name == "inbound" && settings.rules.preserve_source {
            text.push_str("    preserve_source: true\n");
        }
        if name == "inbound" && settings.has_identity() {
            text.push_str("    tls: permissive\n");
        }
        if !settings.opaque_ports.is_empty() {
            let ports: Vec<String> = settings.opaque_ports.iter().map(|ports| format!("\"{ports}\": tcp")).collect();
            let _ = writeln!(text, "    ports: {{ {} }}", ports.join(", "));
        }
    }
    text
}
