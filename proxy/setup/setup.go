// Package setup says how clients are configured to pull from this box: a page
// without script, and a text for each client that can be used as it is. It knows
// the box's address, registries and certificate authority, and when a client last
// pulled; it shows nothing else of the box.
//
// Files: setup.go (the texts), clients.go (which clients there are), address.go
// (the grammar of Host), authority.go (the certificate authority), page.go (GET
// /setup), text/ (the templates).
package setup

import (
	"bytes"
	"embed"
	"fmt"
	"net/url"
	"path"
	"slices"
	"strings"
	"text/template"

	"hubcap/proxy/upstream"
)

// Box is what a client is told of a hubcap.
type Box struct {
	TLS        bool
	Address    string     // host:port of a mirror port, as clients reach it
	Default    string     // the registry of requests at that port that name none
	HubAddress string     // host:port of the mirror port whose default is Docker Hub, if that is another one; empty if there is none
	Registries []string   // that can be pulled from; "*.example.com" is a pattern
	Others     []*url.URL // the mirror ports of the other boxes of the site, at which a client goes on when this one fails
	CA         []byte     // PEM of the certificate that clients have to trust; nil if they need none
}

// Mirrors is what the mirror ports of a box have in common.
type Mirrors struct {
	Registries []string   // as in Box
	HubPort    string     // number of the mirror port whose default registry is Docker Hub; empty if there is none
	CertFile   string     // PEM certificate of the ports; empty without TLS
	CAFile     string     // PEM certificates of the site's own authorities; may be empty
	Others     []*url.URL // as in Box, of the mirror ports whose default registry is SiteDefault

	SiteDefault string
}

// Box returns what is told of the mirror port that clients reach at an address,
// a host:port. def is the port's default registry.
func (m Mirrors) Box(address string, secured bool, def string) Box {
	b := Box{TLS: secured, Address: address, Default: def, Registries: m.Registries, Others: m.others(address, def)}
	if secured {
		b.CA = Authority(m.CertFile, m.CAFile)
	}
	if def != upstream.DockerHub && m.HubPort != "" {
		b.HubAddress = address[:strings.LastIndexByte(address, ':')+1] + m.HubPort
	}
	return b
}

// others returns the mirror ports of the other boxes that do what the one at an address
// does, whose default registry is def.
func (m Mirrors) others(address, def string) []*url.URL {
	if def != m.SiteDefault {
		return nil
	}
	return slices.DeleteFunc(slices.Clone(m.Others), func(u *url.URL) bool { return u.Host == address })
}

// URL returns the address of the mirror port.
func (b Box) URL() string { return b.url(b.Address) }

func (b Box) url(address string) string {
	if b.TLS {
		return "https://" + address
	}
	return "http://" + address
}

// Mirrors returns what dockerd asks, in order.
func (b Box) Mirrors() []string {
	all := []string{b.URL()}
	if b.HubAddress != "" {
		all = append(all, b.url(b.HubAddress))
	}
	return all
}

// Hosts returns the registries without the patterns, the default one first.
func (b Box) Hosts() []string {
	all := slices.DeleteFunc(slices.Clone(b.Registries), isPattern)
	slices.SortFunc(all, func(x, y string) int {
		if (x == b.Default) != (y == b.Default) {
			if x == b.Default {
				return -1
			}
			return 1
		}
		return strings.Compare(x, y)
	})
	return all
}

// Patterns returns the registries that are patterns.
func (b Box) Patterns() []string {
	return slices.DeleteFunc(slices.Clone(b.Registries), func(host string) bool { return !isPattern(host) })
}

func isPattern(host string) bool { return strings.HasPrefix(host, "*") }

// Location is a registry, and where clients find its repositories that cannot
// name a registry but in the repository's name.
type Location struct {
	Registry, At string
	Elsewhere    []Mirror // the same at other boxes
}

// Mirror is an address, and whether TLS is spoken there.
type Mirror struct {
	At  string
	TLS bool
}

// elsewhere returns what a path below a box's address is at the others.
func (b Box) elsewhere(path string) (all []Mirror) {
	for _, u := range b.Others {
		all = append(all, Mirror{u.Host + path, u.Scheme == "https"})
	}
	return all
}

// Locations returns those of the registries whose names can be part of a
// repository's name: with a dot and without a port.
func (b Box) Locations() []Location {
	var all []Location
	for _, host := range b.Hosts() {
		switch {
		case host == b.Default:
			all = append(all, Location{host, b.Address, b.elsewhere("")})
		case strings.Contains(host, ".") && !strings.Contains(host, ":"):
			all = append(all, Location{host, b.Address + "/" + host, b.elsewhere("/" + host)})
		}
	}
	return all
}

// Example returns where a client that knows no mirrors finds a registry's
// repositories: of ghcr.io if the box has it.
func (b Box) Example() Location {
	all := b.Locations()
	if len(all) == 0 {
		return Location{Registry: b.Default, At: b.Address}
	}
	if i := slices.IndexFunc(all, func(l Location) bool { return l.Registry == "ghcr.io" }); i >= 0 {
		return all[i]
	}
	return all[len(all)-1]
}

// The forms of a text.
const (
	Plain     = ""           // the client's own file, or commands
	Ansible   = "ansible"    // tasks that write the file
	CloudInit = "cloud-init" // user data that has the file
)

// Text returns the text of a client in a form. Its error is one line that says
// which names there are; it does not repeat the one that was given.
func (b Box) Text(name, form string) (string, error) {
	c, ok := find(name)
	if !ok {
		return "", fmt.Errorf("no such client; there are: %s", strings.Join(Names(), ", "))
	}
	if form == Plain {
		return b.render(c, "file"), nil
	}
	if !slices.Contains(forms, form) {
		return "", fmt.Errorf("no such form; there are: %s", strings.Join(forms, ", "))
	}
	if !c.HasFile() {
		return "", fmt.Errorf("%s are for the clients with a file: %s", strings.Join(forms, " and "), strings.Join(namesWithFile(), ", "))
	}
	return b.render(c, form), nil
}

var forms = []string{Ansible, CloudInit}

//go:embed text
var files embed.FS

// texts are the templates of each client, by name. Each has a "file" (what the
// client reads, or commands where it reads no file), "steps" (a shell script
// that applies it and shows that it works) and "notes" (one a line).
var texts = parseTexts()

func parseTexts() map[string]*template.Template {
	common := template.New("").Funcs(template.FuncMap{"dir": path.Dir, "indent": indent})
	template.Must(common.ParseFS(files, "text/hosts.tmpl"))
	all := make(map[string]*template.Template)
	for _, c := range clients {
		all[c.Name] = template.Must(template.Must(common.Clone()).ParseFS(files, "text/"+c.template+".tmpl"))
	}
	return all
}

// view is what a template sees.
type view struct {
	Box
	client
}

// CAPath returns where the client reads the box's certificate authority from;
// empty if it needs none.
func (v view) CAPath() string {
	if v.CA == nil {
		return ""
	}
	return strings.ReplaceAll(v.ca, "ADDRESS", v.Address)
}

// Authority returns the certificate of the box's authority.
func (v view) Authority() string { return string(v.CA) }

// File returns the client's own file.
func (v view) File() string { return v.render(v.client, "file") }

// Dirs returns the directories of the client's files.
func (v view) Dirs() []string {
	dirs := []string{path.Dir(v.Path)}
	if ca := v.CAPath(); ca != "" && path.Dir(ca) != dirs[0] {
		dirs = append(dirs, path.Dir(ca))
	}
	return dirs
}

// render executes a template. It cannot fail: the templates are tested with
// each client.
func (b Box) render(c client, name string) string {
	var out bytes.Buffer
	if err := texts[c.Name].ExecuteTemplate(&out, name, view{b, c}); err != nil {
		panic(err)
	}
	return out.String()
}

// indent puts n spaces before each line that is not empty.
func indent(n int, text string) string {
	var out strings.Builder
	for line := range strings.Lines(text) {
		if line != "\n" {
			out.WriteString(strings.Repeat(" ", n))
		}
		out.WriteString(line)
	}
	return out.String()
}
