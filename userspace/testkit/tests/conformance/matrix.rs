//! Every kind of Service, asked from everywhere.

use sluice_testkit::matrix::{self, Options};

use crate::rig::rig;

/// R7, R11, R15-R19, R22, R41, R44-R47 and the tables of lists, masquerading and refusals.
#[test]
fn every_cell_of_the_matrix_is_as_the_rules_say() {
    let Some(rig) = rig() else { return };
    let rig = rig.as_ref().unwrap();
    let outcome =
        matrix::run(&rig.cluster, &Options::default(), |step| println!("{step}")).unwrap();
    assert!(outcome.total > 2900, "{}", outcome.total);
    assert_eq!(outcome.met, outcome.total, "{}", outcome.differing.join("\n"));
}
