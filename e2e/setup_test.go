package e2e

import (
	"encoding/json"
	"html"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// applied are the clients whose files the page's steps write to the places where the client looks for them.
var applied = []struct {
	client string // of ours
	text   string // of /setup
	start  func(t *testing.T, s *site) session
}{
	{"dockerd", "docker", func(t *testing.T, s *site) session {
		d := dockerd{newTool(t, s, "")}
		d.start(t, "/etc/docker/daemon.json")
		return d
	}},
	{"ctr", "containerd", func(t *testing.T, s *site) session {
		c := containerd{tool: newTool(t, s, ""), daemon: "containerd", client: "ctr", hosts: "/etc/containerd/certs.d"}
		c.start(t, "")
		return c
	}},
	{"containerd2", "containerd", func(t *testing.T, s *site) session {
		c := containerd{tool: newTool(t, s, ""), daemon: installed("containerd"), client: installed("ctr"), hosts: "/etc/containerd/certs.d"}
		c.start(t, c.unpacks(""))
		return c
	}},
	{"buildkit", "buildkit", func(t *testing.T, s *site) session {
		b := buildkit{newTool(t, s, "")}
		b.start(t, "/etc/buildkit/buildkitd.toml")
		return b
	}},
	{"podman", "podman", func(t *testing.T, s *site) session { return podman{systemTool(t, s)} }},
	{"buildah", "podman", func(t *testing.T, s *site) session { return buildah{systemTool(t, s)} }},
	{"skopeo", "podman", func(t *testing.T, s *site) session { return skopeo{systemTool(t, s)} }},
}

// systemTool has a program of containers/image read the system's configuration.
func systemTool(t *testing.T, s *site) tool {
	t.Helper()
	c := newTool(t, s, "")
	c.system = true
	return c
}

// TestSetupSteps takes the steps of the page at /setup as a user does, and then pulls: from a box without TLS, and from one whose
// certificate nobody trusts before. What the client had in its file before is still there.
func TestSetupSteps(t *testing.T) {
	need(t, "curl", "jq", "openssl")
	for name, box := range map[string]string{"plain": mirror, "TLS": securedMirror} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t)
			var settings []string
			if box == securedMirror {
				cert, key := newCertificate(t)
				settings = []string{"HUBCAP_TLS_CERT_FILE=" + cert, "HUBCAP_TLS_KEY_FILE=" + key}
			}
			s.startHubcap(t, scratch(t), append(settings, longTTL)...)
			for _, a := range applied {
				t.Run(a.client, func(t *testing.T) {
					c := clientNamed(t, a.client)
					u := newUser(t, s, box)
					mustRun(t, s.ns, u.shell(`echo '{"shutdown-timeout": 10}' >/etc/docker/daemon.json`))
					u.apply(t, a.text)
					if a.text == "docker" {
						u.assertDaemonJSON(t)
					}
					s.assertPullsThrough(t, c, a.start(t, s))
				})
			}
			for _, name := range []string{"crane", "regctl", "helm"} {
				t.Run(name, func(t *testing.T) {
					c := clientNamed(t, name)
					need(t, c.programs...)
					s.assertPullsThrough(t, c, c.start(t, s, box))
				})
			}
		})
	}
}

// assertPullsThrough fails unless a pull goes through the box, and comes from the stand-in once.
func (s *site) assertPullsThrough(t *testing.T, c client, session session) {
	t.Helper()
	s.hub.Reset()
	k := kinds[slices.IndexFunc(kinds, func(k kind) bool { return c.cannot[k.name] == takes })]
	i := k.make("setup/" + strings.ReplaceAll(t.Name(), "/", "-"))
	i.repository = strings.ToLower(i.repository)
	s.publish(i)
	mustPull(t, session, i)
	s.assertNoBypass(t)
	if c.describesAll {
		i = i.described()
	}
	s.assertCrossedOnce(t, i)
}

// user is somebody at a shell, in front of the page.
type user struct{ tool }

// newUser has root's shell already, no systemd to reload anything, and no buildx, which is to make a builder of its own.
func newUser(t *testing.T, s *site, box string) user {
	t.Helper()
	u := user{newTool(t, s, box)}
	for name, script := range map[string]string{"sudo": `exec "$@"`, "systemctl": `echo "$@" >>` + u.path("systemctl.log"), "docker": "[ $1 = buildx ]"} {
		if err := os.Chmod(u.write(t, name, "#!/bin/sh\n"+script+"\n"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return u
}

var (
	pre         = regexp.MustCompile(`(?s)<pre>(.*?)</pre>`)
	fingerprint = regexp.MustCompile(`<code>((?:[0-9A-F]{2}:){31}[0-9A-F]{2})</code>`)
)

// apply takes the steps of a client but for the last, which pulls from the internet.
func (u user) apply(t *testing.T, client string) {
	t.Helper()
	page := u.ask(t, "/setup")
	_, section, _ := strings.Cut(page, `<details id="`+client+`">`)
	blocks := pre.FindAllStringSubmatch(section, 2)
	if len(blocks) != 2 {
		t.Fatalf("the page has no steps for %s:\n%s", client, page)
	}
	steps := strings.Split(strings.TrimSpace(html.UnescapeString(blocks[1][1])), "\n")
	out := mustRun(t, u.ns, u.shell("PATH="+u.dir+":$PATH\n"+strings.Join(steps[:len(steps)-1], "\n")))
	if shown := fingerprint.FindStringSubmatch(page); u.mirror == securedMirror && (shown == nil || !strings.Contains(out, "="+shown[1]+"\n")) {
		t.Errorf("the page has the fingerprint %q, and openssl prints\n%s", shown, out)
	}
	log, _ := os.ReadFile(u.path("systemctl.log"))
	if want := map[string]string{"docker": "try-reload-or-restart docker\n", "buildkit": "try-reload-or-restart buildkit*\n"}[client]; string(log) != want {
		t.Errorf("systemctl is called with %q, want %q", log, want)
	}
}

// assertDaemonJSON looks for the mirror beside what was in the file before.
func (u user) assertDaemonJSON(t *testing.T) {
	t.Helper()
	var got struct {
		Timeout int      `json:"shutdown-timeout"`
		Mirrors []string `json:"registry-mirrors"`
	}
	out := mustRun(t, u.ns, exec.Command("cat", "/etc/docker/daemon.json"))
	if err := json.Unmarshal([]byte(out), &got); err != nil || got.Timeout != 10 || len(got.Mirrors) != 1 {
		t.Errorf("daemon.json is\n%s (%v)", out, err)
	}
}

// TestSetupFallsBack stops the box: containerd then asks the registry itself, also by the file for every registry.
func TestSetupFallsBack(t *testing.T) {
	for _, name := range []string{"ctr", "containerd2"} {
		t.Run(name, func(t *testing.T) {
			c := clientNamed(t, name)
			i := multiArchOf("some/demo")
			s := newSite(t, i)
			h := s.startHubcap(t, scratch(t), longTTL)
			session := c.start(t, s, mirror)
			h.stop()
			mustPull(t, session, i)
			if seen := agents(s.hub.Log()); !slices.Equal(seen, []string{c.agent}) {
				t.Errorf("the registry saw %v, want %s", seen, c.agent)
			}
		})
	}
}
