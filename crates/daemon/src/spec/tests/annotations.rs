//! The guide's tables of annotations, row by row.

use serde_json::json;

use super::*;
use crate::spec::annotations::check_pod;

/// Names and verdicts, of rows that speak of annotations by name. What varies in a name has one value.
fn rows() -> Vec<(String, String)> {
    let guide = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/guide/annotations.md");
    let guide = std::fs::read_to_string(guide).unwrap();
    let rows = guide.lines().filter_map(|line| {
        let mut cells = line.strip_prefix("| ")?.split(" | ");
        Some((cells.next()?, cells.next()?))
    });
    let named = rows.flat_map(|(names, verdict)| {
        let quoted = names.split('`').skip(1).step_by(2);
        let whole = quoted.filter(|name| name.contains('.') && !name.contains('…'));
        whole.map(|name| (name.replace("CONTAINER", "web"), verdict.to_owned()))
    });
    named.collect()
}

#[test]
fn what_the_guide_calls_ignored_changes_nothing_and_what_it_calls_refused_is() {
    let mut base = read(&directory().join("base.json"));
    base.remove("expect");
    let plain = outcome(base.clone()).unwrap();
    let with = |place: &str, name: &str| {
        let mut asked = Value::Object(base.clone());
        merge(
            &mut asked,
            &json!({ place: { "annotations": { name: "value" } } }),
        );
        let Value::Object(asked) = asked else {
            unreachable!()
        };
        outcome(asked)
    };
    let (mut ignored, mut refused) = (0, 0);
    for (name, verdict) in rows() {
        let pod: PodConfig = {
            let mut pod = base["pod"].clone();
            merge(&mut pod, &json!({ "annotations": { &name: "value" } }));
            serde_json::from_value(pod).unwrap()
        };
        match verdict.as_str() {
            "ignored" => {
                ignored += 1;
                check_pod(&pod).unwrap();
                for place in ["pod", "container"] {
                    assert_eq!(with(place, &name), Ok(plain.clone()), "{place}: {name}");
                }
            }
            "refused" => {
                refused += 1;
                let refusals = [
                    check_pod(&pod).unwrap_err().to_string(),
                    with("container", &name).unwrap_err(),
                ];
                for refusal in refusals {
                    assert!(refusal.contains(&name), "{refusal}");
                }
            }
            _ => {}
        }
    }
    assert!(ignored >= 20 && refused >= 5, "{ignored} {refused}");
}
