package config

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"hubcap/proxy/upstream"
	"hubcap/proxy/upstream/credentials"
)

// Kind is where credentials come from that are not in the environment.
type Kind = credentials.Kind

// ownRegistry is a registry as the operator has set it, in one entry or in
// several that differ in their credentials.
type ownRegistry struct {
	registry        // all but the credentials, as the entries say together
	host     string // in its one spelling
	accounts []account
}

// account is the credentials of one entry.
type account struct {
	number       int // of the entry
	login        credentials.Login
	repositories Globs // that it is for; when empty, those of no other account
}

// ownRegistries reads the entries, those of one host together.
func ownRegistries(values map[string]string) ([]ownRegistry, error) {
	entries, err := count(upstreamPrefix, values)
	if err != nil {
		return nil, err
	}
	var all []ownRegistry
	for n := range entries {
		prefix := registryPrefix(n)
		var r registry
		if err := parse(&r, prefix, values); err != nil {
			return nil, err
		}
		host, err := checkHost(r.Host)
		if err != nil {
			return nil, refused(prefix+"HOST", r.Host, err)
		}
		i := slices.IndexFunc(all, func(o ownRegistry) bool { return o.host == host })
		if i < 0 {
			i = len(all)
			all = append(all, ownRegistry{registry: r, host: host})
		}
		if err := all[i].add(r, n, values); err != nil {
			return nil, err
		}
	}
	for i := range all {
		if err := all[i].settle(values); err != nil {
			return nil, err
		}
	}
	return all, nil
}

// add takes the credentials of the n-th entry.
func (o *ownRegistry) add(r registry, n int, values map[string]string) error {
	prefix := registryPrefix(n)
	l, err := loginOf(r, prefix, values)
	if err != nil {
		return err
	}
	if len(r.Repositories) > 0 && !l.LogsIn() {
		return refused(prefix+"REPOSITORIES", r.Repositories.String(), fmt.Errorf("are for credentials, and there are none: set %sUSERNAME and %sPASSWORD, %sTOKEN or %sCREDENTIALS", prefix, prefix, prefix, prefix))
	}
	for _, before := range o.accounts {
		if len(r.Repositories) == 0 && len(before.repositories) == 0 {
			return refused(prefix+"HOST", r.Host, fmt.Errorf("%sHOST names it too; tell them apart by %sREPOSITORIES", registryPrefix(before.number), prefix))
		}
		if j := slices.IndexFunc(r.Repositories, func(glob string) bool { return slices.Contains(before.repositories, glob) }); j >= 0 {
			return refused(prefix+"REPOSITORIES", r.Repositories.String(), fmt.Errorf("%sREPOSITORIES has %s too", registryPrefix(before.number), r.Repositories[j]))
		}
	}
	o.accounts = append(o.accounts, account{n, l, r.Repositories})
	return nil
}

// loginOf is the credentials of one entry.
func loginOf(r registry, prefix string, values map[string]string) (credentials.Login, error) {
	l := credentials.Login{
		Kind: r.Credentials, Username: r.Username, Password: r.Password, Token: r.Token,
		UsernameFile: values[prefix+"USERNAME_FILE"], PasswordFile: values[prefix+"PASSWORD_FILE"], TokenFile: values[prefix+"TOKEN_FILE"],
	}
	if (l.Username == "") != (l.Password == "") {
		return l, fmt.Errorf("%sUSERNAME and %sPASSWORD: set both or none", prefix, prefix)
	}
	if l.Token != "" && l.Username != "" {
		return l, fmt.Errorf("%sTOKEN and %sUSERNAME: set one of them; a token that belongs to a user is his password", prefix, prefix)
	}
	if l.Kind != credentials.Given && (l.Username != "" || l.Token != "") {
		return l, refused(prefix+"CREDENTIALS", string(l.Kind), errors.New("a user or token is set too; set one of them"))
	}
	return l, nil
}

// forCredentials are the fields in which the entries of one host may differ.
var forCredentials = []string{"HOST", "USERNAME", "PASSWORD", "TOKEN", "CREDENTIALS", "REPOSITORIES"}

// settle reads all that is not about credentials from the entries together:
// what one of them says holds for the registry, and two may not disagree.
func (o *ownRegistry) settle(values map[string]string) error {
	first := registryPrefix(o.accounts[0].number)
	together := maps.Clone(values)
	for _, v := range describe(registry{}, "") {
		if slices.Contains(forCredentials, v.Name) {
			continue
		}
		said := first + v.Name // by whom
		for _, other := range o.accounts[1:] {
			name := registryPrefix(other.number) + v.Name
			switch value := values[name]; {
			case value == "":
			case together[first+v.Name] == "":
				together[first+v.Name], said = value, name
			case together[first+v.Name] != value:
				return refused(name, value, fmt.Errorf("%s says otherwise of the same registry", said))
			}
		}
	}
	o.registry = registry{}
	return parse(&o.registry, first, together)
}

// applyAccounts sets the credentials of a registry whose address is known. Those
// of a cloud must not go elsewhere.
func (o *ownRegistry) applyAccounts(e *upstream.Entry) error {
	for _, a := range o.accounts {
		if err := credentials.Check(a.login.Kind, strings.ToLower(e.URL.Host)); err != nil {
			return refused(registryPrefix(a.number)+"CREDENTIALS", string(a.login.Kind), err)
		}
		if len(a.repositories) > 0 {
			e.Parts = append(e.Parts, upstream.Part{Repositories: a.repositories, Login: a.login})
		} else {
			e.Login = a.login
		}
	}
	return nil
}
