//! The files that people apply: the chart, the manifests, task definitions, compose, the bill of materials; read by the programs
//! that apply them.

use std::path::PathBuf;
use std::process::Command;

use serde_json::Value;
use weir_tests::peers::Peer;
use weir_tests::weir::binary;
use weir_tests::{Result, Trial, holds, same, test, test_with};

pub(super) fn trials() -> Vec<Trial> {
    let judge = |name: &str, needs: &[&'static str], arguments: &'static [&'static str]| {
        let needs: Vec<Peer> = needs.iter().map(|need| Peer::Deployer(need)).collect();
        test_with(&format!("deploy::files::{name}"), &needs, move || judged(arguments))
    };
    vec![
        judge("helm_chart", &["helm", "kubectl", "kubernetes"], &["helm", "helm/weir"]),
        judge("kustomize_base", &["kubectl", "kubernetes"], &["kustomize", "kubernetes/base"]),
        judge("kustomize_cert_manager", &["kubectl", "kubernetes"], &["kustomize", "kubernetes/overlays/cert-manager"]),
        judge("ecs_tasks", &["ecs"], &["ecs", "ecs/fargate.json", "ecs/ec2.json"]),
        judge("compose", &["compose"], &["compose", "compose/compose.yaml"]),
        test("deploy::files::bill_of_materials", bill_of_materials),
    ]
}

fn deploy(file: &str) -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy")).join(file)
}

async fn judged(arguments: &'static [&'static str]) -> Result {
    let Some((verb, files)) = arguments.split_first() else { return Err("nothing to judge".into()) };
    let mut peer = Command::new("python3");
    peer.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/peers/deploy_peer.py")).arg(verb).args(files.iter().map(|file| deploy(file)));
    let done = peer.arg("--weir").arg(binary()).output()?;
    let said = format!("{}{}", String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
    holds!(done.status.success(), "{said}");
    println!("{}", said.trim());
    Ok(())
}

async fn bill_of_materials() -> Result {
    let print = || -> Result<String> {
        let done = Command::new(deploy("sbom")).output()?;
        holds!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        Ok(String::from_utf8(done.stdout)?)
    };
    let text = print()?;
    let bill: Value = serde_json::from_str(&text)?;
    same!((&bill["bomFormat"], &bill["specVersion"]), (&Value::from("CycloneDX"), &Value::from("1.5")));
    let components = bill["components"].as_array().ok_or("no components")?;
    let named = |name: &str| components.iter().any(|component| component["name"] == name);
    holds!(components.len() > 100 && named("tokio") && named("rustls") && named("h2"), "{}", components.len());
    holds!(!named("proptest") && !named("tempfile-test") && !named("divan"), "what is only for tests is not in it");
    let whole = |component: &Value| component["purl"].is_string() && component["version"].is_string();
    holds!(components.iter().all(whole));
    same!(print()?, text, "the same each time");
    Ok(())
}
