// Whose reports were set aside, how often, and why?
//
//   since    from when on
//
// One document per super-node and reason. Frequent ones tell of a super-node that is slow, cut off, or lies.
db.intervals.aggregate(
  [
    { "$match": { "$expr": { "$gte": ["$cut_at", "$$since"] } } },
    { "$unwind": "$observers" },
    { "$match": { "observers.used": false } },
    { "$group": {
      "_id": { "observer": "$observers.id", "why": "$observers.why" },
      "intervals": { "$sum": 1 },
      "first": { "$min": "$_id" },
      "last": { "$max": "$_id" }
    } },
    { "$project": { "_id": 0, "observer": "$_id.observer", "why": "$_id.why", "intervals": 1, "first": 1, "last": 1 } },
    { "$sort": { "intervals": -1, "observer": 1, "why": 1 } }
  ],
  { "let": { "since": { "$dateSubtract": { "startDate": "$$NOW", "unit": "day", "amount": 30 } } } }
).forEach(printjson)
