// What was paid, fined, claimed and adjusted on each day?
//
//   since    from when on
//
// One document per day (UTC) and kind of movement, in points; claims, penalties and cuts are negative.
db.rewards.aggregate(
  [
    { "$match": { "$expr": { "$gte": ["$at", "$$since"] } } },
    { "$group": {
      "_id": { "day": { "$dateToString": { "date": "$at", "format": "%Y-%m-%d" } }, "kind": "$kind" },
      "movements": { "$sum": 1 },
      "members": { "$addToSet": "$member" },
      "amount": { "$sum": "$amount" }
    } },
    { "$project": {
      "_id": 0,
      "day": "$_id.day",
      "kind": "$_id.kind",
      "movements": 1,
      "members": { "$size": "$members" },
      "points": { "$divide": ["$amount", 1000000] }
    } },
    { "$sort": { "day": 1, "kind": 1 } }
  ],
  { "let": { "since": { "$dateSubtract": { "startDate": "$$NOW", "unit": "day", "amount": 30 } } } }
).forEach(printjson)
