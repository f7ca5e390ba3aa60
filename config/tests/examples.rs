//! Every example is a configuration that weir accepts, and stays one.

#[test]
fn examples_are_accepted() {
    let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/examples");
    let mut count = 0;
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let text = std::fs::read_to_string(&path).unwrap();
        if let Err(mistakes) = weir_config::load(&text) {
            let lines: Vec<String> = mistakes.iter().map(|m| m.render(&path.display().to_string())).collect();
            panic!("{}", lines.join("\n"));
        }
        count += 1;
    }
    assert!(count >= 4, "the examples are missing");
}
