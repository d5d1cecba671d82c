// Which members answered worst in the last week?
//
//   since    from when on; the interval that was cut at that moment is the first that counts
//   limit    the ten worst, in "$limit"
//
// One document per member: pings sent and missed over the observers that counted, its availability from that, the
// intervals in which it missed any, and what it was fined. Announced maintenance does not count.
db.intervals.aggregate(
  [
    { "$match": { "$expr": { "$gte": ["$cut_at", "$$since"] } } },
    { "$lookup": { "from": "observations", "localField": "_id", "foreignField": "_id.i", "as": "seen" } },
    { "$unwind": "$seen" },
    { "$replaceWith": "$seen" },
    { "$match": { "excused": false, "sent": { "$gt": 0 } } },
    { "$group": {
      "_id": "$_id.m",
      "sent": { "$sum": "$sent" },
      "missed": { "$sum": "$missed" },
      "answered": { "$sum": "$answered" },
      "intervals": { "$sum": 1 },
      "bad_intervals": { "$sum": { "$cond": [{ "$gt": ["$missed", 0] }, 1, 0] } },
      "penalty": { "$sum": "$penalty" }
    } },
    { "$project": {
      "sent": 1,
      "missed": 1,
      "intervals": 1,
      "bad_intervals": 1,
      "availability_percent": { "$round": [{ "$multiply": [100, { "$divide": ["$answered", "$sent"] }] }, 3] },
      "fined_points": { "$divide": ["$penalty", 1000000] }
    } },
    { "$sort": { "availability_percent": 1, "_id": 1 } },
    { "$limit": 10 }
  ],
  { "let": { "since": { "$dateSubtract": { "startDate": "$$NOW", "unit": "day", "amount": 7 } } } }
).forEach(printjson)
