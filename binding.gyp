{
  # node-gyp only starts the build; scripts/build-native makes the same file
  # for "npm install", "npm run build" and "node-gyp rebuild".
  'targets': [
    {
      'target_name': 'hostroute',
      'type': 'none',
      'actions': [
        {
          'action_name': 'build_native',
          'inputs': [],
          'outputs': ['native/hostroute.node'],
          'action': ['scripts/build-native'],
        },
      ],
    },
  ],
}
