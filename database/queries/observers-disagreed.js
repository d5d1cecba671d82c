// When did observers see the same member differently?
//
//   since    from when on
//   spread   by how much the shares of missed pings must differ, 0 to 1
//
// One document per member and interval, the newest first. A member that one observer reaches and another does not points
// to the network between, not to the member.
db.intervals.aggregate(
  [
    { "$match": { "$expr": { "$gte": ["$cut_at", "$$since"] } } },
    { "$lookup": { "from": "observations", "localField": "_id", "foreignField": "_id.i", "as": "seen" } },
    { "$unwind": "$seen" },
    { "$replaceWith": "$seen" },
    { "$set": { "shares": { "$map": {
      "input": { "$filter": { "input": { "$objectToArray": "$by" }, "as": "one", "cond": { "$gt": ["$$one.v.sent", 0] } } },
      "as": "one",
      "in": { "observer": "$$one.k", "missed": { "$divide": ["$$one.v.missed", "$$one.v.sent"] } }
    } } } },
    { "$set": { "spread": { "$subtract": [{ "$max": "$shares.missed" }, { "$min": "$shares.missed" }] } } },
    { "$match": { "$expr": { "$gte": ["$spread", "$$spread"] } } },
    { "$project": { "_id": 0, "interval": "$_id.i", "member": "$_id.m", "spread": 1, "shares": 1, "penalty": 1, "reward": 1 } },
    { "$sort": { "interval": -1, "spread": -1, "member": 1 } },
    { "$limit": 100 }
  ],
  { "let": { "since": { "$dateSubtract": { "startDate": "$$NOW", "unit": "day", "amount": 7 } }, "spread": 0.25 } }
).forEach(printjson)
