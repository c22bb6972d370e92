//! What a projection's attributes must and must not say.

use indelible_projections::Projection;

struct Account;

#[derive(Projection)]
struct Nameless;

#[derive(Projection)]
#[projection(name = "")]
struct Empty;

#[derive(Projection)]
#[projection(name = "all")]
struct Eventless;

#[derive(Projection)]
#[projection(name = "both", of = Account, events = Account)]
struct Both;

#[derive(Projection)]
#[projection(name = "only", events = Account, only(OPENED))]
struct Only;

#[derive(Projection)]
#[projection(name = "unknown", of = Account, ordered)]
struct Unknown;

#[derive(Projection)]
#[projection(name = "none", of = Account, partitions = 0)]
struct None0;

#[derive(Projection)]
#[projection(name = "many", of = Account, partitions = 1025)]
struct Many;

#[derive(Projection)]
#[projection(name = "whole", of = Account, partitions = 2, whole_log)]
struct WholeInParts;

#[derive(Projection)]
#[projection(name = "parks", of = Account, whole_log, park)]
struct WholeParks;

fn main() {}
