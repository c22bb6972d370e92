//! Opening a read model: many processes at once, any names, roles.

use indelible_postgres::{OpenError, PostgresModel};
use indelible_projections::{ReadModel, ReadModelError, Registration};

use super::fixture::*;
use crate::{
    child,
    cluster::{Cluster, shared_url},
    writing::client,
};

const PROCESSES: usize = 20;
const TABLE: &str = "CREATE TABLE t (n bigint)";

/// What a child does.
pub(crate) async fn open(url: &str, schema: &str) {
    let model = PostgresModel::options().schema(schema).connections(1).open(url).await.unwrap();
    let (version, _) = register(&model, &id("p", 1), 3, TABLE).await;
    println!("registered {}", version.projection);
}

#[tokio::test]
async fn twenty_processes_open_one_read_model() {
    let (url, schema) = (shared_url(), fresh_model());
    let children: Vec<_> =
        (0..PROCESSES).map(|_| child::command(&format!("model {schema}"), &url).spawn().unwrap()).collect();
    for child in children {
        let output = child.wait_with_output().unwrap();
        let said = child::said(&output);
        assert!(output.status.success() && said.contains("registered p@1"), "{said}");
    }
    let model = PostgresModel::options().schema(&schema).open(&url).await.unwrap();
    assert_eq!(model.versions("p").await.unwrap().len(), 1);
    assert_eq!(model.partitions(&id("p", 1)).await.unwrap().len(), 3);
}

#[tokio::test]
async fn schemas_and_projections_have_any_name() {
    let url = shared_url();
    let end = fresh_model();
    let end = &end[end.len() - 8..];
    let mut seen = Vec::new();
    for schema in ["Upper \"q\" 'n'; --", "ü🦀", "$1", "a.b", "select"] {
        let schema = format!("{schema}{end}");
        for name in [
            "tally",
            "Upper \"quoted\" 'name'; DROP TABLE x; --",
            "ü🦀%s$1\\",
            &"long ".repeat(50),
            &"long ".repeat(51),
        ] {
            let model = PostgresModel::options().schema(&schema).open(&url).await.unwrap();
            let table = format!("table {}", seen.len());
            let setup: &'static str = format!("CREATE TABLE \"{table}\" (n bigint)").leak();
            register(&model, &id(name, 1), 1, setup).await;
            let claim = take(&model, &id(name, 1), 0, name).await;
            let mut tx = model.begin(&step(&claim, 1)).await.unwrap();
            tx.execute(&format!("INSERT INTO \"{table}\" VALUES (1)"), ()).await.unwrap();
            model.commit(tx).await.unwrap();
            assert_eq!(model.partitions(&id(name, 1)).await.unwrap()[0].owner.as_ref().unwrap().0, name);
            assert_eq!(model.versions(name).await.unwrap().len(), 1);
            model.reset(&id(name, 1), claim.position).await.unwrap();
            model.caught_up(&id(name, 1)).await.unwrap();
            seen.push((schema.clone(), name.to_owned()));
        }
    }
    for schema in ["", "pg_mine", "a\nb", &"x".repeat(33)] {
        let refused = PostgresModel::options().schema(schema).open(&url).await;
        assert!(matches!(refused, Err(OpenError::Invalid(_))), "{schema:?}: {refused:?}");
    }
}

#[tokio::test]
async fn a_setup_that_fails_leaves_nothing_and_another_count_of_partitions_is_refused() {
    let url = shared_url();
    let name = fresh_model();
    let model = PostgresModel::options().schema(&name).open(&url).await.unwrap();
    let register = async |partitions, setup| {
        let head = indelible_core::Token::start(indelible_core::StoreId::new());
        model.register(&Registration { projection: id("p", 1), partitions, head, setup }).await
    };
    let broken = register(1, "CREATE TABLE t (n bigint); CREATE TABLE t (n bigint)").await;
    assert!(matches!(broken, Err(ReadModelError::Rejected { .. })), "{broken:?}");
    let made = register(1, TABLE).await.unwrap();
    assert_eq!(register(1, TABLE).await.unwrap(), made);
    let other = register(2, TABLE).await;
    assert!(matches!(other, Err(ReadModelError::Partitions { stored: 1, asked: 2, .. })), "{other:?}");

    let client = client(&url).await;
    client.batch_execute(&format!("UPDATE \"{name}\".indelible_format SET format = 99")).await.unwrap();
    let newer = PostgresModel::options().schema(&name).open(&url).await;
    assert!(matches!(newer, Err(OpenError::NewerFormat { found: 99, .. })), "{newer:?}");
}

/// What the documentation says of roles.
#[tokio::test]
async fn a_role_that_may_create_schemas_is_all_that_workers_need() {
    let cluster = Cluster::start("");
    let url = cluster.url();
    let admin = client(&url).await;
    let make = "CREATE ROLE worker LOGIN; CREATE ROLE reports LOGIN; GRANT CREATE ON DATABASE postgres TO worker";
    admin.batch_execute(make).await.unwrap();
    let url_of = |role: &str| url.replace("postgres@", &format!("{role}@"));
    let refused = PostgresModel::open(&url_of("reports")).await;
    assert!(matches!(refused, Err(OpenError::Refused { .. })), "{refused:?}");
    let model = PostgresModel::open(&url_of("worker")).await.unwrap();
    register(&model, &id("p", 1), 1, TABLE).await;
    let claim = take(&model, &id("p", 1), 0, "a").await;
    let mut tx = model.begin(&step(&claim, 1)).await.unwrap();
    tx.execute("INSERT INTO t VALUES (1)", ()).await.unwrap();
    model.commit(tx).await.unwrap();
    let reports = client(&url_of("reports")).await;
    assert!(reports.query("SELECT * FROM read_models.t", &[]).await.is_err());
    let granted = client(&url_of("worker")).await;
    granted.batch_execute("SELECT read_models.indelible_grant_reader('reports')").await.unwrap();
    assert_eq!(reports.query("SELECT * FROM read_models.t", &[]).await.unwrap().len(), 1);
    for refused in
        ["DELETE FROM read_models.t", "SELECT * FROM read_models_p_1.t", "DELETE FROM read_models.indelible_versions"]
    {
        let refused = reports.query(refused, &[]).await.unwrap_err();
        assert_eq!(refused.code().map(|code| code.code()), Some("42501"), "{refused}");
    }
}
