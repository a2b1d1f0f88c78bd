package testbox

import (
	"cmp"
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"hubcap/e2e/fakehub"
	"hubcap/proxy/config"
	"hubcap/proxy/server"
)

const mib = 1 << 20

// Rooms is a hubcap that a test uses from inside, and clients at its mirror port alone.
// Nothing happens in it by itself.
type Rooms struct {
	*server.Server
	Mirror string // URL
	Stop   func() // is called at the end of the test, too
}

// Build builds a hubcap on a directory, with a cache of some bytes, 256 MiB when 0.
// hub is its docker.io; without one it is offline.
func Build(t testing.TB, hub *fakehub.Hub, dir string, cache int64, environ []string, o server.Options) *Rooms {
	t.Helper()
	all := []string{"HUBCAP_DATA_DIR=" + dir, "HUBCAP_PREFETCH=off", "HUBCAP_MAX_BLOB=50%", "HUBCAP_UPSTREAM_0_HOST=docker.io"}
	if hub != nil {
		all = append(all, behind(hub)...)
	} else {
		all = append(all, "HUBCAP_OFFLINE=true")
	}
	c, err := config.Load(append(all, environ...))
	if err != nil {
		t.Fatal(err)
	}
	cache = cmp.Or(cache, 256*mib)
	further := o.Adjust
	o.Version, o.Proxy = "test", func(*http.Request) (*url.URL, error) { return nil, nil }
	o.Adjust = func(s *server.Settings) {
		s.Disk = server.Disk{Cache: cache, MaxBlob: c.MaxBlobBytes(cache), Reserve: mib}
		s.HighWatermark, s.LowWatermark = 1, 0.9
		s.SnapshotInterval, s.FlushInterval, s.SweepInterval, s.StartWithin = time.Hour, time.Hour, time.Hour, time.Hour
		if further != nil {
			further(s)
		}
	}
	s, err := server.New(c, o)
	if err != nil {
		t.Fatal(err)
	}
	mirror := httptest.NewServer(s.Handler)
	stop := sync.OnceFunc(func() { mirror.Close(); s.Close() })
	t.Cleanup(stop)
	return &Rooms{s, mirror.URL, stop}
}

// behind returns the settings of docker.io that a hub plays.
func behind(hub *fakehub.Hub) []string {
	return []string{
		"HUBCAP_UPSTREAM_0_URL=" + hub.RegistryURL(), "HUBCAP_UPSTREAM_0_TOKEN_HOSTS=" + strings.TrimPrefix(hub.TokenURL(), "http://"),
		"HUBCAP_UPSTREAM_0_PRIVATE_CIDRS=127.0.0.0/8",
	}
}

// Get asks an address, with a header or nil, and returns the answer's status and body.
func Get(t testing.TB, address string, header http.Header) (status int, body []byte) {
	t.Helper()
	req, err := http.NewRequestWithContext(context.Background(), http.MethodGet, address, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header = header
	resp, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if body, err = io.ReadAll(resp.Body); err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, body
}
