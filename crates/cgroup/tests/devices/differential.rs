//! Generated lists mean the same to v1's devices controller and to our program.

use longshore_cgroup::Error;
use proptest::prelude::*;
use proptest::test_runner::TestRunner;

use crate::probe::{Pod, Verdicts, resources};

const CASES: u32 = 48;

fn some_rule() -> impl Strategy<Value = String> {
    let pick = |words: &'static [&'static str]| prop::sample::select(words);
    (
        pick(&["allow", "deny"]),
        pick(&["c", "c", "b", "a"]),
        pick(&["*", "1", "1", "7", "10"]),
        pick(&["*", "0", "3", "5", "7", "229"]),
        pick(&["r", "w", "m", "rw", "rwm"]),
    )
        .prop_map(|(verb, node_type, major, minor, access)| {
            format!("{verb} {node_type} {major}:{minor} {access}")
        })
}

fn some_list() -> impl Strategy<Value = Vec<String>> {
    let default =
        prop::sample::select(&["deny a *:* rwm", "deny a *:* rwm", "allow a *:* rwm"][..]);
    let default = prop::option::weighted(0.8, default);
    (default, prop::collection::vec(some_rule(), 1..6)).prop_map(|(default, rules)| {
        let default = default.map(str::to_owned);
        default.into_iter().chain(rules).collect()
    })
}

#[test]
fn v1_says_the_same() {
    let Some(v1) = Pod::v1() else {
        // A machine without the controller has nothing to compare with.
        return;
    };
    let v2 = Pod::v2();
    let config = ProptestConfig {
        cases: CASES,
        failure_persistence: None,
        ..ProptestConfig::default()
    };
    let mut runner = TestRunner::new_with_rng(
        config,
        proptest::test_runner::TestRng::deterministic_rng(
            proptest::test_runner::RngAlgorithm::ChaCha,
        ),
    );
    runner
        .run(&some_list(), |rules| compare(&v1, &v2, &rules))
        .unwrap();
}

fn compare(v1: &Pod, v2: &Pod, rules: &[String]) -> Result<(), TestCaseError> {
    let resources = resources(rules);
    let old = match v1.create("c", &resources) {
        Ok(old) => old,
        // v1 has no words for it.
        Err(Error::Unsupported { .. }) => {
            return Err(TestCaseError::reject("an exception to an exception"));
        }
        Err(error) => return Err(TestCaseError::fail(error.to_string())),
    };
    let new = v2.create("c", &resources);
    let new = new.map_err(|error| TestCaseError::fail(error.to_string()))?;
    let (before, now) = (Verdicts::of(&old), Verdicts::of(&new));
    old.remove().unwrap();
    new.remove().unwrap();
    for line in before.differences(&now) {
        // v1 wants one rule to allow both; ours lets two rules do it. (Who may open twice gains nothing.)
        let (device, how) = line.split_once(' ').unwrap();
        let twice = how == "rw" && now.may(device, "r") && now.may(device, "w");
        let known =
            twice && now.may(device, "rw") && before.may(device, "r") && before.may(device, "w");
        prop_assert!(known, "{line}: v1 {before:?}, v2 {now:?}");
    }
    Ok(())
}
