// What were members fined for?
//
//   since    from when on
//
// One document per kind and reason, the numbers in the reason left out: how often, how many members, how much.
db.rewards.aggregate(
  [
    { "$match": { "kind": { "$in": ["penalty", "claim_penalty"] }, "$expr": { "$gte": ["$at", "$$since"] } } },
    { "$set": { "words": { "$map": {
      "input": { "$regexFindAll": { "input": "$reason", "regex": "[^0-9. ]+" } },
      "as": "word",
      "in": "$$word.match"
    } } } },
    { "$group": {
      "_id": { "kind": "$kind", "reason": { "$reduce": {
        "input": "$words",
        "initialValue": "",
        "in": { "$cond": [{ "$eq": ["$$value", ""] }, "$$this", { "$concat": ["$$value", " ", "$$this"] }] }
      } } },
      "times": { "$sum": 1 },
      "members": { "$addToSet": "$member" },
      "amount": { "$sum": "$amount" }
    } },
    { "$project": {
      "_id": 0,
      "kind": "$_id.kind",
      "reason": "$_id.reason",
      "times": 1,
      "members": { "$size": "$members" },
      "points": { "$divide": ["$amount", 1000000] }
    } },
    { "$sort": { "points": 1, "kind": 1, "reason": 1 } }
  ],
  { "let": { "since": { "$dateSubtract": { "startDate": "$$NOW", "unit": "day", "amount": 30 } } } }
).forEach(printjson)
