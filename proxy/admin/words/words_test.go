package words

import (
	"strings"
	"testing"
	"time"

	"hubcap/proxy/admin/api"
	"hubcap/proxy/freshness"
	"hubcap/proxy/purge"
)

func TestWords(t *testing.T) {
	now := time.Date(2026, 11, 28, 12, 0, 0, 0, time.UTC)
	m, early := Moment{now}, now.Add(-time.Hour)
	join := func(parts []string) string { return strings.Join(parts, "; ") }
	const digest = "sha256:aaaaaaaaaaaaaaaa"
	for want, got := range map[string]string{
		"":                               Limit(nil) + Limit(&api.Limit{Remaining: -1}) + Credentials(nil) + m.Fails(api.Upstream{Hosts: []api.Host{{Circuit: "closed"}}}),
		"docker.io":                      From(api.Fill{Host: "docker.io"}),
		"docker.io, from another box":    From(api.Fill{Host: "docker.io", Place: "peer"}),
		"docker.io/a/b, from the bucket": From(api.Fill{Host: "docker.io", Repository: "a/b", Place: "s3"}),
		"18 of 100 left":                 Limit(&api.Limit{Limit: 100, Remaining: 18}),
		"1 pull left":                    Limit(&api.Limit{Limit: -1, Remaining: 1}),
		"refused":                        Credentials(&api.Credentials{Refused: true, Failure: "x"}),
		"not available: x":               Credentials(&api.Credentials{Usable: true, Failure: "x"}),
		"offline: not asked":             m.Fails(api.Upstream{Offline: true}),
		"a limits pulls until 11:00; a since 11:00: b": m.Fails(api.Upstream{Hosts: []api.Host{{Host: "a", Circuit: "open", Since: early, Failure: "b", LimitedUntil: early}}}),
		"frozen since 11:00 by x: y; deleted at the registry 1 h ago": m.Tag(api.Tag{
			State: freshness.Frozen, Frozen: &freshness.Freeze{Since: early, By: "x", Note: "y", Deleted: early},
		}),
		"evicted 1 h ago":                       m.Why(api.Gap{Why: "evicted", At: early}),
		"evicted":                               m.Why(api.Gap{Why: "evicted"}),
		"12 ms, 1.2 s":                          Took(0.012) + ", " + Took(1.24),
		"All of it is held: nothing is fetched": Fetch(api.Cost{}),
		"1 object, at least 5 B, is fetched; that takes at least 2 pulls":                           Fetch(api.Cost{Objects: 1, Bytes: 5, Pulls: 2, Unknown: true}),
		"x has 9 B in 2 objects; 5 B of it is fetched; with it, 9 of 20 B is pinned of what can be": join(Pin(api.PinCost{Ref: "x", Bytes: 9, Objects: 2, MissingBytes: 5, Added: 9, Limit: 20})),
		"x with 9 B is pinned; then what no other pin keeps may be evicted":                         join(Unpin(api.Pins{Pins: []api.Pin{{Ref: "x", Bytes: 9}}})),
		"x is sha256:aaaaaaaaaaaa and becomes sha256:bb":                                            join(Tag(api.TagChange{Tag: api.Tag{Ref: "x", Digest: digest}, Digest: "sha256:bb"})),
		"1 tag, 3 objects and 9 B would go: x; 1 object stays, as something else needs it; y stays: z": join(Purge(api.Purged{
			DryRun: true, Tags: []string{"x"}, Objects: 3, Bytes: 9, Shared: 1, Kept: []purge.Kept{{Name: "y", Why: "z"}},
		})),
		"9 B in 2 objects goes; 1 B pinned are passed over; 0 images will no longer survive an outage": join(Evict(api.Eviction{Bytes: 9, Count: 2, Pinned: 1}, "goes", "will")),
		"This finds that there is nothing that it could fetch":                                         join(Repair("This", api.Repair{})),
	} {
		if got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}
