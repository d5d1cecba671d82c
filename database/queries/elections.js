// How long was the cluster without a leader, and why?
//
//   since    from when on
//
// One document per election, the longest first: who followed whom, which detector fired, who voted.
db.elections.aggregate(
  [
    { "$match": { "$expr": { "$gte": ["$at", "$$since"] } } },
    { "$sort": { "leaderless_ms": -1, "_id": 1 } },
    { "$project": { "_id": 0, "term": "$_id", "leaderless_ms": 1, "reason": 1, "previous": 1, "leader": 1, "votes": 1, "at": 1 } }
  ],
  { "let": { "since": { "$dateSubtract": { "startDate": "$$NOW", "unit": "day", "amount": 30 } } } }
).forEach(printjson)
