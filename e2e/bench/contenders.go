package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"time"

	"hubcap/e2e/fakehub"
)

// The contenders, in the order of the table.
const (
	hubcapName       = "hubcap"
	plainName        = "plain Go"
	nginxFilesName   = "nginx, own files"
	nginxName        = "nginx cache"
	distributionName = "distribution 3"
	directName       = "direct"
)

var names = []string{hubcapName, plainName, nginxFilesName, nginxName, distributionName, directName}

// contender is one who serves. Caches serve /v2/…, the others /<file>.
type contender struct {
	name string
	url  string
	dir  string // of its own
	*process
	launch func() (*process, error)
}

// restart starts a contender that was killed.
func (c *contender) restart() (err error) {
	c.process, err = c.launch()
	return err
}

// bench is one run.
type bench struct {
	reps     int
	dir      string
	hub      *fakehub.Hub
	programs map[string]string // paths
	files    string            // the directory of those who serve files
	seed     uint64            // of the next content
	settings []string          // of hubcap, beside those of every run
	pair     pair              // made for this run
	secured  *pair             // what contenders speak TLS with; nil if they do not
}

func newBench(reps int) (b *bench, err error) {
	b = &bench{reps: reps, programs: make(map[string]string), seed: uint64(time.Now().UnixNano())}
	if b.dir, err = os.MkdirTemp("", "hubcap-bench-"); err != nil {
		return nil, err
	}
	b.files = filepath.Join(b.dir, "files")
	b.programs[hubcapName] = filepath.Join(b.dir, "hubcap-program")
	if out, err := exec.Command("go", "build", "-o", b.programs[hubcapName], ".").CombinedOutput(); err != nil {
		return nil, errors.Join(err, errors.New(string(out)), os.RemoveAll(b.dir))
	}
	if b.programs[plainName], err = os.Executable(); err != nil {
		return nil, err
	}
	for name, program := range map[string]string{nginxName: "nginx", distributionName: "registry"} {
		if path, err := exec.LookPath(program); err == nil {
			b.programs[name] = path
		} else {
			fmt.Printf("%s is left out: there is no program %s\n", name, program)
		}
	}
	if b.programs[nginxName] != "" {
		b.programs[nginxFilesName] = b.programs[nginxName]
	}
	if b.pair, err = newPair(b.dir); err != nil {
		return nil, err
	}
	if b.hub, err = fakehub.New(fakehub.Options{}); err != nil {
		return nil, err
	}
	// nginx's workers are another user's.
	return b, errors.Join(os.Mkdir(b.files, 0o755), os.Chmod(b.dir, 0o755))
}

func (b *bench) close() {
	_ = b.hub.Close()
	_ = os.RemoveAll(b.dir)
}

// upstream sets the hub's latency and caps, in bytes a second.
func (b *bench) upstream(latency time.Duration, perConnection, inAll int64) {
	b.hub.Set(func(o *fakehub.Options) { o.Latency, o.ConnBandwidth, o.Bandwidth = latency, perConnection, inAll })
}

// each calls f with every contender of the given names that can be had, each
// with nothing cached and alone on the machine.
func (b *bench) each(f func(c *contender) error, which ...string) error {
	for _, name := range which {
		if b.programs[name] == "" && name != directName {
			continue
		}
		// nginx fetches no tokens, and distribution none from another port of an
		// address; so they get theirs without.
		b.hub.Set(func(o *fakehub.Options) { o.Anonymous = name == nginxName || name == distributionName })
		c, err := b.start(name)
		if err != nil {
			return err
		}
		err = f(c)
		if c.process != nil {
			c.kill()
		}
		if err := errors.Join(err, os.RemoveAll(c.dir)); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return nil
}

func (b *bench) start(name string) (*contender, error) {
	if name == directName {
		return &contender{name: name, url: b.hub.RegistryURL()}, nil
	}
	address, err := freeAddress()
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp(b.dir, "contender-")
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(dir, 0o777); err != nil {
		return nil, err
	}
	c := &contender{name: name, url: b.secured.scheme() + address, dir: dir}
	c.launch = func() (*process, error) { return b.launch(c, address) }
	return c, c.restart()
}

func (b *bench) launch(c *contender, address string) (*process, error) {
	log := filepath.Join(c.dir, "log")
	program := b.programs[c.name]
	switch c.name {
	case hubcapName:
		return b.launchBox(c, address, slices.Concat(b.settings, b.secured.settings())...)
	case plainName:
		return start(log, c.url, nil, append([]string{program, "-plain", b.files + "@" + address}, b.secured.flags()...)...)
	case nginxName, nginxFilesName:
		conf := filepath.Join(c.dir, "nginx.conf")
		text := fmt.Sprintf(nginxConf, c.dir, address, b.files, b.hub.RegistryURL(), b.secured.nginx())
		if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
			return nil, err
		}
		return start(log, c.url, nil, program, "-c", conf, "-g", "daemon off;")
	case distributionName:
		conf := filepath.Join(c.dir, "registry.yml")
		text := fmt.Sprintf(distributionConf, c.dir, address, b.hub.RegistryURL())
		if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
			return nil, err
		}
		return start(log, c.url, []string{"OTEL_TRACES_EXPORTER=none"}, program, "serve", conf)
	}
	return nil, errors.New("no such contender")
}

// nginxConf is how nginx is set up as a cache of a registry: one request
// fetches, the others wait, and the registry's redirect is followed for the
// client.
const nginxConf = `
worker_processes 2;
worker_rlimit_nofile 8192;
error_log %[1]s/error.log error;
pid %[1]s/pid;
events { worker_connections 4096; }
http {
	sendfile on;
	tcp_nopush on;
	keepalive_requests 1000000;
	access_log %[1]s/access.log;
	client_body_temp_path %[1]s/body;
	proxy_temp_path %[1]s/temp;
	proxy_cache_path %[1]s/cache levels=1:2 keys_zone=blobs:10m max_size=8g inactive=7d use_temp_path=off;
	server {
		listen %[2]s%[5]s;
		location / { root %[3]s; }
		location /v2/ {
			proxy_pass %[4]s;
			proxy_http_version 1.1;
			proxy_set_header Connection "";
			proxy_cache blobs;
			proxy_cache_key $uri;
			proxy_cache_valid 200 1d;
			proxy_cache_lock on;
			proxy_cache_lock_timeout 900s;
			proxy_cache_lock_age 900s;
			proxy_intercept_errors on;
			recursive_error_pages on;
			error_page 301 302 307 = @cdn;
		}
		location @cdn {
			set $at $upstream_http_location;
			proxy_pass $at;
			proxy_http_version 1.1;
			proxy_cache blobs;
			proxy_cache_key $uri;
			proxy_cache_valid 200 1d;
			proxy_cache_lock on;
			proxy_cache_lock_timeout 900s;
			proxy_cache_lock_age 900s;
		}
	}
}
`

const distributionConf = `
version: 0.1
log:
  level: info
storage:
  filesystem:
    rootdirectory: %[1]s/data
http:
  addr: %[2]s
proxy:
  remoteurl: %[3]s
`
