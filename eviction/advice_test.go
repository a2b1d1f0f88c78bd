package eviction

import (
	"math"
	"testing"
	"time"

	"hubcap/eviction/advisor"
	"hubcap/metrics"
)

// TestAdvice plays the synthetic sites with caches of 5, 10 and 20 % of the working
// set, and compares what is advised at 10 % with what half and twice the size then
// answer. With -v it plays all sites.
func TestAdvice(t *testing.T) {
	some := sites[:1]
	switch {
	case testing.Verbose():
		some = sites
	case testing.Short():
		t.Skip("it takes seconds")
	}
	for _, one := range some {
		t.Run(one.name, func(t *testing.T) {
			s := newSite(one.siteOptions)
			workingSet := float64(s.workingSet())
			var advice advisor.Advice
			var measured []advisor.Estimate
			for _, share := range []float64{0.05, 0.10, 0.20} {
				var now time.Duration
				c := advisor.NewCapacity(func() time.Time { return time.Unix(0, 0).Add(now) })
				small, large := int64(share*workingSet*simulatedSmallShare), int64(share*workingSet*(1-simulatedSmallShare))
				l := NewLedger(LedgerOptions{
					Limit: small + large, SmallSize: simulatedSmallSize, SmallShare: simulatedSmallShare,
					High: simulatedHigh, Low: simulatedLow, Metrics: metrics.New().Space,
					Now: func() time.Time { return time.Unix(0, 0).Add(now) },
				})
				l.KeepWhole(s.edges)
				s.advised = c
				s.play(ledgerCached{l, newTestJanitor(l, math.MaxInt64, l.unlinkNow)}, &now, true)
				measured = append(measured, c.Measured())
				if share != 0.10 {
					continue
				}
				var known bool
				if advice, known = c.Advice(small, large, small+large); !known {
					t.Fatal("nothing is known")
				}
			}
			for i, m := range measured {
				e := advice.Scales[i+1]
				t.Logf("%v times the size: %.3f of the requests, advised %.3f; %.3f of the bytes, advised %.3f; a week %.1f GB less",
					advisor.Scales[i+1], m.Requests, e.Requests, m.Bytes, e.Bytes, float64(advice.Week[i+1])/1e9)
				if math.Abs(e.Requests-m.Requests) > 0.08 || math.Abs(e.Bytes-m.Bytes) > 0.10 {
					t.Errorf("%v times the size: %+v, advised %+v", advisor.Scales[i+1], m, e)
				}
			}
		})
	}
}
