package e2e

import (
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"testing"

	"github.com/opencontainers/go-digest"
)

// swift is an OpenStack Swift of three nodes, each of which keeps a copy of every object, with S3 spoken at s3Address.
type swift struct {
	*site
	t     *testing.T
	dir   string
	nodes [][]*process
}

// The kinds of servers of a node.
var swiftServers = []string{"account", "container", "object"}

const swiftServer = `[DEFAULT]
bind_ip = 127.0.0.1
bind_port = %d
user = root
swift_dir = %s
devices = %s
mount_check = false
workers = 0
[pipeline:main]
pipeline = %[4]s-server
[app:%[4]s-server]
use = egg:swift#%[4]s
`

const swiftProxy = `[DEFAULT]
bind_ip = 127.0.0.1
bind_port = 7070
user = root
swift_dir = %s
workers = 0
[pipeline:main]
pipeline = catch_errors gatekeeper healthcheck cache s3api tempauth slo dlo proxy-server
[app:proxy-server]
use = egg:swift#proxy
account_autocreate = true
conn_timeout = 0.5
[filter:catch_errors]
use = egg:swift#catch_errors
[filter:gatekeeper]
use = egg:swift#gatekeeper
[filter:healthcheck]
use = egg:swift#healthcheck
[filter:cache]
use = egg:swift#memcache
memcache_servers = 127.0.0.1:11211
[filter:s3api]
use = egg:swift#s3api
location = us-east-1
[filter:tempauth]
use = egg:swift#tempauth
user_test_tester = testing .admin
[filter:slo]
use = egg:swift#slo
[filter:dlo]
use = egg:swift#dlo
`

// startSwift starts one with an empty bucket. It takes the system's /etc/swift/swift.conf.
func (s *site) startSwift(t *testing.T) *swift {
	t.Helper()
	w := &swift{site: s, t: t, dir: scratch(t), nodes: make([][]*process, 3)}
	for n, kind := range swiftServers {
		ring := w.dir + "/" + kind + ".builder"
		script := fmt.Sprintf("swift-ring-builder %s create 6 3 1\n", ring)
		for node := range w.nodes {
			script += fmt.Sprintf("swift-ring-builder %s add r1z%d-127.0.0.1:%d/d1 100\n", ring, node+1, port(node, n))
		}
		mustRun(t, s.ns, exec.Command("sh", "-ec", script+"swift-ring-builder "+ring+" rebalance"))
	}
	// A server that is asked before it listens is left alone for a minute: the proxy comes last.
	w.run("memcached", "memcached", "-u", "root", "-l", "127.0.0.1")
	for node := range w.nodes {
		w.startNode(node)
	}
	for node, servers := range w.nodes {
		for n, server := range servers {
			server.waitReady(t, func() bool { return s.listens(t, fmt.Sprintf("127.0.0.1:%d", port(node, n))) })
		}
	}
	config := w.write("proxy.conf", fmt.Sprintf(swiftProxy, w.dir))
	w.run("swift-proxy", "swift-proxy-server", config, "-v").waitReady(t, func() bool { return s.listens(t, s3Address) })
	if err := w.makeBucket(); err != nil {
		t.Fatal(err)
	}
	return w
}

// port is where a server of a node listens.
func port(node, server int) int { return 6000 + 100*node + server }

func (w *swift) write(name, content string) (path string) {
	w.t.Helper()
	path = w.dir + "/" + name
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		w.t.Fatal(err)
	}
	return path
}

func (w *swift) run(name string, command ...string) *process {
	w.t.Helper()
	cmd := exec.Command(command[0], command[1:]...)
	cmd.Env = environment()
	return startDaemon(w.t, w.ns, name, cmd)
}

func (w *swift) startNode(node int) {
	w.t.Helper()
	devices := fmt.Sprintf("%s/node%d", w.dir, node)
	if err := os.MkdirAll(devices+"/d1", 0o755); err != nil {
		w.t.Fatal(err)
	}
	for n, kind := range swiftServers {
		config := w.write(fmt.Sprintf("%s%d.conf", kind, node), fmt.Sprintf(swiftServer, port(node, n), w.dir, devices, kind))
		w.nodes[node] = append(w.nodes[node], w.run(fmt.Sprintf("swift-%s%d", kind, node), "swift-"+kind+"-server", config, "-v"))
	}
}

func (w *swift) killNode(node int) {
	for _, server := range w.nodes[node] {
		server.kill()
	}
}

// makeBucket makes a container, in Swift's own words, which is the bucket.
func (w *swift) makeBucket() error {
	client := w.ns.httpClient(w.t)
	ask := func(method, url string, header ...string) (http.Header, error) {
		req, err := http.NewRequestWithContext(w.t.Context(), method, url, nil)
		if err != nil {
			return nil, err
		}
		for n := 0; n < len(header); n += 2 {
			req.Header.Set(header[n], header[n+1])
		}
		resp, err := client.Do(req)
		if err != nil {
			return nil, err
		}
		_ = resp.Body.Close()
		if resp.StatusCode/100 != 2 {
			err = fmt.Errorf("%s: %s", url, resp.Status)
		}
		return resp.Header, err
	}
	login, err := ask(http.MethodGet, "http://"+s3Address+"/auth/v1.0", "X-Auth-User", "test:tester", "X-Auth-Key", "testing")
	if err == nil {
		_, err = ask(http.MethodPut, login.Get("X-Storage-Url")+"/bucket", "X-Auth-Token", login.Get("X-Auth-Token"))
	}
	return err
}

// TestTierSwift has a Swift of three nodes behind the boxes lose one node, and then a second one: with one gone, images are read and
// written as before; with two gone, they are not written, and no pull fails. It takes TEST_E2E_SWIFT=1, and Debian's packages
// swift-proxy, swift-account, swift-container, swift-object and memcached.
func TestTierSwift(t *testing.T) {
	if os.Getenv("TEST_E2E_SWIFT") == "" {
		t.Skip("TEST_E2E_SWIFT is not set")
	}
	need(t, "memcached", "swift-ring-builder", "swift-proxy-server", "swift-account-server", "swift-container-server", "swift-object-server")
	c := clientNamed(t, "crane")
	big, huge, later, last := bigImage("library/big", layerSize), bigImage("library/huge", 70<<20), bigImage("library/later", 3*mib), bigImage("library/last", 2*mib)
	s := newSite(t, big, huge, later, last)
	w := s.startSwift(t)
	settings := append(tierAt(s3Address), "HUBCAP_S3_ACCESS_KEY=test:tester", "HUBCAP_S3_SECRET_KEY=testing")
	pull := func(images ...*image) (blobs int) {
		all := map[digest.Digest]bool{}
		for _, i := range images {
			mustPull(t, c.start(t, s, mirror), i)
			for _, one := range i.pulled() {
				all[one.Digest] = true
			}
		}
		return len(all)
	}
	box := s.startHubcap(t, scratch(t), settings...)
	written := pull(big, huge)
	waitUntil(t, "all is in the bucket", func() bool { return box.metric(t, "hubcap_tier_writes_total") == int64(written) })
	box.terminate(t)

	w.killNode(0)
	s.hub.Reset()
	box = s.startHubcap(t, scratch(t), settings...)
	pull(big, huge)
	if n := s.blobsAsked(); n != 0 {
		t.Errorf("with a node gone, the registry was asked %d times for blobs that the bucket has:\n%s", n, describe(s.hub.Log()))
	}
	written = pull(later)
	waitUntil(t, "more is in the bucket", func() bool { return box.labelled(t, `hubcap_tier_writes_total{result=`)["stored"] == written })

	w.killNode(1)
	pull(last)
	waitUntil(t, "the bucket takes nothing", func() bool { return box.labelled(t, `hubcap_tier_writes_total{result=`)["failed"] > 0 })
	s.assertNoBypass(t)
}
