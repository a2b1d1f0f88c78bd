package setup

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/pelletier/go-toml/v2"
	"go.yaml.in/yaml/v3"
)

// registries are those of the boxes here. The pattern and the port are what
// some clients cannot have.
var registries = []string{"*.example.net", "docker.io", "ghcr.io", "registry.example.com:8443"}

// caPEM is a certificate as far as a text goes.
const caPEM = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n"

// boxes are one of each kind.
var boxes = map[string]Box{
	"plain":      {Address: "berlin.lan:5000", Default: "docker.io", Registries: registries},
	"public TLS": {Address: "berlin.example.com:443", Default: "docker.io", Registries: registries, TLS: true},
	"own TLS":    {Address: "[fd00::1]:5000", Default: "docker.io", Registries: registries, TLS: true, CA: []byte(caPEM)},
	"a site": {Address: "berlin.lan:5000", Default: "docker.io", Registries: registries, Others: []*url.URL{
		{Scheme: "http", Host: "hamburg.lan:5000"}, {Scheme: "https", Host: "bremen.lan:5000"},
	}},
	"a site with TLS": {Address: "berlin.lan:5000", Default: "docker.io", Registries: registries, TLS: true, CA: []byte(caPEM), Others: []*url.URL{
		{Scheme: "https", Host: "bremen.lan:5000"},
	}},
	"further port": {Address: "berlin.lan:5002", Default: "registry.example.com:8443", HubAddress: "berlin.lan:5000", Registries: registries},
}

// forBoxes runs a test for the text of each box.
func forBoxes(t *testing.T, client, form string, test func(t *testing.T, b Box, text string)) {
	t.Helper()
	for name, b := range boxes {
		t.Run(client+form+", "+name, func(t *testing.T) {
			text, err := b.Text(client, form)
			if err != nil {
				t.Fatal(err)
			}
			test(t, b, text)
			if t.Failed() {
				t.Logf("the text:\n%s", text)
			}
		})
	}
}

func fromTOML(t *testing.T, text string, into any) {
	t.Helper()
	d := toml.NewDecoder(strings.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		t.Fatal(err)
	}
}

func fromYAML(t *testing.T, text string, into ...any) {
	t.Helper()
	d := yaml.NewDecoder(strings.NewReader(text))
	d.KnownFields(true)
	for _, one := range into {
		if err := d.Decode(one); err != nil {
			t.Fatal(err)
		}
	}
	if err := d.Decode(new(any)); !errors.Is(err, io.EOF) {
		t.Errorf("there is more than %d documents: %v", len(into), err)
	}
}

// urls are those of the other boxes.
func urls(b Box) (all []string) {
	for _, u := range b.Others {
		all = append(all, u.String())
	}
	return all
}

func expect(t *testing.T, what string, got, want any) {
	t.Helper()
	g, _ := json.Marshal(got)
	w, _ := json.Marshal(want)
	if !bytes.Equal(g, w) {
		t.Errorf("%s: got  %s\nwant %s", what, g, w)
	}
}

func TestDocker(t *testing.T) {
	forBoxes(t, "docker", Plain, func(t *testing.T, b Box, text string) {
		var got map[string][]string
		if err := json.Unmarshal([]byte(text), &got); err != nil {
			t.Fatal(err)
		}
		want := []string{b.URL()}
		if b.Default != "docker.io" {
			want = []string{"http://berlin.lan:5002", "http://berlin.lan:5000"}
		}
		expect(t, "daemon.json", got, map[string][]string{"registry-mirrors": want})
	})
}

func TestContainerd(t *testing.T) {
	type host struct {
		Capabilities []string `toml:"capabilities"`
		CA           string   `toml:"ca" json:",omitempty"`
		DialTimeout  string   `toml:"dial_timeout"`
	}
	forBoxes(t, "containerd", Plain, func(t *testing.T, b Box, text string) {
		var got struct {
			Host map[string]host `toml:"host"`
		}
		fromTOML(t, text, &got)
		want := host{Capabilities: []string{"pull", "resolve"}, DialTimeout: "1s"}
		if b.CA != nil {
			want.CA = "hubcap.crt"
		}
		all := map[string]host{b.URL(): want}
		for _, u := range b.Others {
			all[u.String()] = want
		}
		expect(t, "hosts.toml", got.Host, all)
		if len(b.Others) > 0 && strings.Index(text, b.URL()) > strings.Index(text, b.Others[0].String()) {
			t.Error("this box is not the first one")
		}
		if !strings.Contains(text, "containerd\n  # 2.1") {
			t.Error("no word about the versions that know dial_timeout")
		}
	})
}

// The shape is that of https://docs.k3s.io/installation/private-registry and
// https://docs.rke2.io/install/private_registry.
func TestK3s(t *testing.T) {
	type registriesYAML struct {
		Mirrors map[string]struct {
			Endpoint []string          `yaml:"endpoint"`
			Rewrite  map[string]string `yaml:"rewrite"`
		} `yaml:"mirrors"`
		Configs map[string]struct {
			Auth struct {
				Username, Password, Auth, Token string
			} `yaml:"auth"`
			TLS struct {
				CAFile             string `yaml:"ca_file"`
				CertFile           string `yaml:"cert_file"`
				KeyFile            string `yaml:"key_file"`
				InsecureSkipVerify bool   `yaml:"insecure_skip_verify"`
			} `yaml:"tls"`
		} `yaml:"configs"`
	}
	for _, name := range []string{"k3s", "rke2"} {
		forBoxes(t, name, Plain, func(t *testing.T, b Box, text string) {
			var got registriesYAML
			fromYAML(t, text, &got)
			for _, host := range b.Hosts() {
				if m := got.Mirrors[host]; !slices.Equal(m.Endpoint, append([]string{b.URL()}, urls(b)...)) || len(m.Rewrite) > 0 {
					t.Errorf("%s: %+v", host, m)
				}
			}
			if len(got.Mirrors) != 3 {
				t.Errorf("mirrors: %v", got.Mirrors)
			}
			ca := got.Configs[b.Address].TLS.CAFile
			if want := "/etc/rancher/" + name + "/hubcap.crt"; (b.CA != nil) != (ca == want) || b.CA == nil && len(got.Configs) > 0 {
				t.Errorf("configs: %+v", got.Configs)
			}
		})
	}
}

// The shape is that of https://docs.siderolabs.com/talos/v1.13/reference/configuration/cri/registrymirrorconfig
// and registrytlsconfig.
func TestTalos(t *testing.T) {
	type head struct {
		APIVersion string `yaml:"apiVersion"`
		Kind       string `yaml:"kind"`
		Name       string `yaml:"name"`
	}
	type endpoint struct {
		URL          string `yaml:"url"`
		OverridePath bool   `yaml:"overridePath"`
	}
	type mirror struct {
		head         `yaml:",inline"`
		Endpoints    []endpoint `yaml:"endpoints"`
		SkipFallback bool       `yaml:"skipFallback"`
	}
	type tls struct {
		head               `yaml:",inline"`
		CA                 string `yaml:"ca"`
		InsecureSkipVerify bool   `yaml:"insecureSkipVerify"`
	}
	forBoxes(t, "talos", Plain, func(t *testing.T, b Box, text string) {
		var m mirror
		var ca tls
		others := make([]tls, len(b.Others))
		documents := []any{&m}
		if b.CA != nil {
			documents = append(documents, &ca)
			for i := range others {
				documents = append(documents, &others[i])
			}
		}
		fromYAML(t, text, documents...)
		endpoints := []endpoint{{URL: b.URL()}}
		for _, u := range urls(b) {
			endpoints = append(endpoints, endpoint{URL: u})
		}
		if want := (head{"v1alpha1", "RegistryMirrorConfig", "*"}); m.head != want || m.SkipFallback || !slices.Equal(m.Endpoints, endpoints) {
			t.Errorf("%+v", m)
		}
		if b.CA == nil {
			return
		}
		if want := (tls{head: head{"v1alpha1", "RegistryTLSConfig", b.Address}, CA: caPEM}); ca != want {
			t.Errorf("%+v", ca)
		}
		for i, u := range b.Others {
			if want := (tls{head: head{"v1alpha1", "RegistryTLSConfig", u.Host}, CA: caPEM}); others[i] != want {
				t.Errorf("%+v", others[i])
			}
		}
	})
}

// The shape is that of containers-registries.conf(5).
func TestContainersRegistries(t *testing.T) {
	type mirror struct {
		Location string `toml:"location"`
		Insecure bool   `toml:"insecure"`
	}
	type registry struct {
		Prefix   string   `toml:"prefix"`
		Location string   `toml:"location"`
		Mirror   []mirror `toml:"mirror"`
	}
	for _, name := range []string{"podman", "cri-o"} {
		forBoxes(t, name, Plain, func(t *testing.T, b Box, text string) {
			var got struct {
				Registry []registry `toml:"registry"`
			}
			fromTOML(t, text, &got)
			mirrors := func(path string) []mirror {
				all := []mirror{{b.Address + path, !b.TLS}}
				for _, u := range b.Others {
					all = append(all, mirror{u.Host + path, u.Scheme == "http"})
				}
				return all
			}
			want := []registry{{"docker.io", "docker.io", mirrors("")}, {"ghcr.io", "ghcr.io", mirrors("/ghcr.io")}}
			if b.Default != "docker.io" { // it can be named only where it need not be
				want = []registry{
					{b.Default, b.Default, []mirror{{b.Address, true}}},
					{"docker.io", "docker.io", []mirror{{b.Address + "/docker.io", true}}},
					{"ghcr.io", "ghcr.io", []mirror{{b.Address + "/ghcr.io", true}}},
				}
			}
			expect(t, "registries.conf", got.Registry, want)
		})
	}
}

// The shape is that of BuildKit's util/resolver/config.RegistryConfig.
func TestBuildKit(t *testing.T) {
	type registry struct {
		Mirrors   []string `toml:"mirrors" json:",omitempty"`
		PlainHTTP *bool    `toml:"http" json:",omitempty"`
		RootCAs   []string `toml:"ca" json:",omitempty"`
	}
	forBoxes(t, "buildkit", Plain, func(t *testing.T, b Box, text string) {
		var got struct {
			Registry map[string]registry `toml:"registry"`
		}
		fromTOML(t, text, &got)
		want := map[string]registry{}
		for _, host := range []string{"docker.io", "ghcr.io", "registry.example.com:8443"} {
			want[host] = registry{Mirrors: []string{b.Address}}
			for _, u := range b.Others {
				want[host] = registry{Mirrors: append(want[host].Mirrors, u.Host)}
			}
		}
		for _, u := range b.Others {
			switch {
			case u.Scheme == "http":
				want[u.Host] = registry{PlainHTTP: new(true)}
			case b.CA != nil:
				want[u.Host] = registry{RootCAs: []string{"/etc/buildkit/hubcap.crt"}}
			}
		}
		switch {
		case b.CA != nil:
			want[b.Address] = registry{RootCAs: []string{"/etc/buildkit/hubcap.crt"}}
		case !b.TLS:
			want[b.Address] = registry{PlainHTTP: new(true)}
		}
		expect(t, "buildkitd.toml", got.Registry, want)
	})
}

// What is a command names the box, and checks its certificate unless it has none.
func TestCommands(t *testing.T) {
	for client, plainly := range map[string]string{"helm": "--plain-http", "crane": "--insecure", "oras": "--plain-http", "regctl": "--tls disabled"} {
		forBoxes(t, client, Plain, func(t *testing.T, b Box, text string) {
			if strings.Contains(text, plainly) == b.TLS {
				t.Error("it takes a plain port for one with TLS, or the other way round")
			}
			if trusts := strings.Contains(text, "hubcap.crt"); trusts != (b.CA != nil) {
				t.Errorf("it trusts the box's authority: %v", trusts)
			}
			want := b.Address + "/ghcr.io/owner/"
			if client == "regctl" {
				want = "--mirror " + b.Address + " ghcr.io\n"
			}
			if !strings.Contains(text, want) {
				t.Errorf("no %q", want)
			}
		})
	}
}

// task is one of Ansible's, with the modules that the texts use.
type task struct {
	Name string `yaml:"name"`
	File struct {
		Path, State, Mode string
	} `yaml:"ansible.builtin.file"`
	Slurp struct{ Src string } `yaml:"ansible.builtin.slurp"`
	Copy  struct {
		Dest, Mode, Content string
		Backup              bool
	} `yaml:"ansible.builtin.copy"`
	Command    string         `yaml:"ansible.builtin.command"`
	Loop       []string       `yaml:"loop"`
	Vars       map[string]any `yaml:"vars"`
	Register   string         `yaml:"register"`
	FailedWhen *bool          `yaml:"failed_when"`
	When       string         `yaml:"when"`
}

// TestManyHosts finds the client's own text in the tasks and in the user data.
func TestManyHosts(t *testing.T) {
	for _, name := range namesWithFile() {
		c, _ := find(name)
		forBoxes(t, name, Ansible, func(t *testing.T, b Box, text string) {
			var tasks []task
			fromYAML(t, text, &tasks)
			written := map[string]string{}
			for _, one := range tasks {
				if one.Copy.Dest != "" {
					written[one.Copy.Dest] = one.Copy.Content
				}
				if name == "docker" && one.Vars != nil {
					mirrors, err := json.Marshal(one.Vars["mirrors"])
					if err != nil || !strings.Contains(one.Copy.Content, "combine(mirrors)") {
						t.Errorf("it does not add to what is there: %+v, %v", one, err)
					}
					written[one.Copy.Dest] = string(mirrors)
				}
			}
			expectFiles(t, b, c, written)
			if reloads := tasks[len(tasks)-1].Command != ""; reloads != (c.Units != "") {
				t.Errorf("something is reloaded: %v", reloads)
			}
		})
		forBoxes(t, name, CloudInit, func(t *testing.T, b Box, text string) {
			var got struct {
				Files []struct{ Path, Permissions, Content string } `yaml:"write_files"`
				Run   []string                                      `yaml:"runcmd"`
			}
			fromYAML(t, text, &got)
			if !strings.HasPrefix(text, "#cloud-config\n") {
				t.Error("cloud-init does not know it for its own")
			}
			written := map[string]string{}
			for _, f := range got.Files {
				written[f.Path] = f.Content
			}
			expectFiles(t, b, c, written)
			if reloads := len(got.Run) > 0; reloads != (c.Units != "") {
				t.Errorf("something is reloaded: %v", reloads)
			}
		})
	}
}

// expectFiles compares what is written to many hosts with the client's own text.
func expectFiles(t *testing.T, b Box, c client, got map[string]string) {
	t.Helper()
	own := b.render(c, "file")
	if c.Name == "docker" {
		own, got[c.Path] = compact(t, own), compact(t, got[c.Path])
	}
	want := map[string]string{c.Path: own}
	if b.CA != nil {
		want[view{b, c}.CAPath()] = caPEM
	}
	expect(t, "files", got, want)
}

func compact(t *testing.T, text string) string {
	t.Helper()
	var out bytes.Buffer
	if err := json.Compact(&out, []byte(text)); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

// TestUnknownNames are answered with those that there are, and not with what was
// given.
func TestUnknownNames(t *testing.T) {
	for _, tc := range []struct{ client, form, want string }{
		{"<script>", Plain, "no such client; there are: docker, "},
		{"docker", "<script>", "no such form; there are: ansible, cloud-init"},
		{"helm", Ansible, "ansible and cloud-init are for the clients with a file: docker, containerd, "},
	} {
		text, err := boxes["plain"].Text(tc.client, tc.form)
		if err == nil || text != "" || !strings.HasPrefix(err.Error(), tc.want) || strings.Contains(err.Error(), "script") {
			t.Errorf("%s %s: %q, %v", tc.client, tc.form, text, err)
		}
	}
}

// Every name, also the other ones of a client, has a text that ends a line, and
// all of them are different.
func TestNames(t *testing.T) {
	names := Names()
	for i, name := range names {
		text, err := boxes["plain"].Text(name, Plain)
		if err != nil || !strings.HasSuffix(text, "\n") || strings.HasSuffix(text, "\n\n") || strings.Contains(text, "<no value>") {
			t.Errorf("%s: %q, %v", name, text, err)
		}
		if slices.Index(names, name) != i {
			t.Errorf("%s is there twice", name)
		}
	}
}
