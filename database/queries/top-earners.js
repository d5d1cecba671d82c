// Who earned most?
//
//   since    from when on
//   limit    the ten best, in "$limit"
//
// One document per member: rewards, fines and both together, in points. Claims and adjustments are not earnings.
db.rewards.aggregate(
  [
    { "$match": { "kind": { "$in": ["reward", "penalty"] }, "$expr": { "$gte": ["$at", "$$since"] } } },
    { "$group": {
      "_id": "$member",
      "rewards": { "$sum": { "$max": ["$amount", 0] } },
      "penalties": { "$sum": { "$min": ["$amount", 0] } },
      "net": { "$sum": "$amount" }
    } },
    { "$sort": { "net": -1, "_id": 1 } },
    { "$limit": 10 },
    { "$project": {
      "rewards": { "$divide": ["$rewards", 1000000] },
      "penalties": { "$divide": ["$penalties", 1000000] },
      "net": { "$divide": ["$net", 1000000] }
    } }
  ],
  { "let": { "since": { "$dateSubtract": { "startDate": "$$NOW", "unit": "day", "amount": 7 } } } }
).forEach(printjson)
