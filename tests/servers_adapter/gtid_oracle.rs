//! Our GTID arithmetic against the server's own.

use ham4db::domain::gtid::MySqlGtidSet;

use crate::server::{Server, Software};

const UUIDS: [&str; 3] = [
    "3e11fa47-71ca-11e1-9e33-c80aa9429562",
    "3e11fa47-71ca-11e1-9e33-c80aa9429563",
    "a0000000-0000-0000-0000-000000000001",
];
const TAGS: [&str; 3] = ["", "a", "zz_9"];
const PAIRS: usize = 300;

/// The same sets in every run: a linear congruential generator (Knuth's MMIX constants).
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }

    fn pick<'a>(&mut self, from: &[&'a str]) -> &'a str {
        from[usize::try_from(self.below(from.len() as u64)).unwrap()]
    }

    /// Overlapping intervals in any order, with and without tags.
    fn set(&mut self) -> String {
        let entries = (0..self.below(5)).map(|_| {
            let mut entry = self.pick(&UUIDS).to_owned();
            let tag = self.pick(&TAGS);
            if !tag.is_empty() {
                entry = format!("{entry}:{tag}");
            }
            for _ in 0..=self.below(3) {
                let start = 1 + self.below(30);
                entry = format!("{entry}:{start}-{}", start + self.below(10));
            }
            entry
        });
        entries.collect::<Vec<_>>().join(",")
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn gtid_sets_behave_as_the_servers_own() {
    let server = Server::start(Software::MySql, 1, &[]).await;
    let mut connection = server.connect(crate::server::ADMIN).await.unwrap();
    let mut numbers = Numbers(20);
    let mut subsets = 0;
    for _ in 0..PAIRS {
        let (left, mut right) = (numbers.set(), numbers.set());
        if numbers.below(4) == 0 {
            // Otherwise hardly any set would be part of another.
            right = format!("{left},{right}");
        }
        let query = format!(
            "SELECT CONCAT_WS('|', GTID_SUBSET('{left}', '{right}'), GTID_SUBTRACT('{left}', '{right}'), \
             GTID_SUBTRACT('{left},{right}', ''))"
        );
        let row = sqlx::raw_sql(sqlx::AssertSqlSafe(query))
            .fetch_one(&mut connection)
            .await
            .unwrap();
        let answer = sqlx::Row::try_get_unchecked::<String, _>(&row, 0)
            .unwrap()
            .replace('\n', "");
        let (ours, theirs) = (
            MySqlGtidSet::parse(&left).unwrap(),
            MySqlGtidSet::parse(&right).unwrap(),
        );
        let expected = format!(
            "{}|{}|{}",
            u8::from(theirs.contains(&ours)),
            ours.subtract(&theirs),
            ours.union(&theirs)
        );
        assert_eq!(answer, expected, "{left} and {right}");
        subsets += usize::from(theirs.contains(&ours));
    }
    assert!(
        (PAIRS / 10..PAIRS * 9 / 10).contains(&subsets),
        "{subsets} of {PAIRS} are subsets: that proves little"
    );
}
